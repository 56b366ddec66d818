"""The hosts of a recipe as values: its own words fitted to what each kind of host takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from picual.errors import BadValue, PicualError, Problem, nearest
from picual.executors import registry
from picual.executors.host import Host
from picual.recipe.fields import coerce
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import HostSpec, Place, Recipe
from picual.recipe.spots import spot, step_words
from picual.space import fields_of


def hosts_of(recipe: Recipe) -> Mapping[str, Host]:
    """Return the hosts that a checked recipe uses, by name."""
    return {name: host_of(recipe, recipe.hosts[name]) for name in used(recipe)}


def used(recipe: Recipe) -> list[str]:
    """Return the names of the hosts that steps run on and models are measured on; this machine is always one."""
    named = [recipe.host, *(step.host for step in recipe.steps if step.host is not None), recipe.measured_on]
    return list(dict.fromkeys(["local", *named]))


def host_of(recipe: Recipe, spec: HostSpec) -> Host:
    """Return one host as a value, its paths absolute.

    Raises:
        BadValue, UnknownName: What the recipe says of it does not fit.
    """
    kind = registry.load(spec.type)
    values, problems = coerce(kind, spec.options)
    if problems:
        raise BadValue(problems[0].what, hint=problems[0].hint)
    for item in fields_of(kind):
        if item.metadata.get("role") == "path" and isinstance(values.get(item.name), str):
            values[item.name] = str((Path(recipe.folder) / Path(values[item.name]).expanduser()).absolute())
    return registry.build(spec.type, values)


def problems_of(recipe: Recipe, spec: HostSpec) -> list[Problem]:
    """Return what is wrong with what a recipe says of a host."""
    path = f"hosts.{spec.name}"
    where = spot(spec.place, path=path)
    if found := placeholder_in(spec.options):
        what = f"host `{spec.name}` still holds the placeholder `{found}`"
        return [Problem(where, what, "fill it in, or add `--host local` to run on this machine")]
    try:
        kind = registry.load(spec.type)
        _, problems = coerce(kind, spec.options)
        if problems:
            return [Problem(spot(spec.place, path=f"{path}.{one.field}"), one.what, one.hint) for one in problems]
        host_of(recipe, spec)
    except PicualError as error:
        return [Problem(where, f"host `{spec.name}`: {error.what}", error.hint)]
    return []


def host_problems(recipe: Recipe) -> list[Problem]:
    """Return what is wrong with the hosts that steps and measurements name."""
    problems = []
    used = [(recipe.host, recipe.places.get("host", Place(file=recipe.file)), "")]
    used += [
        (step.host, step.places.get("host", step.place), step_words(recipe, step))
        for step in recipe.steps
        if step.host is not None
    ]
    if recipe.target_host is not None:
        used.append((recipe.target_host, recipe.places.get("target.host", Place(file=recipe.file)), ""))
    seen = set[str]()
    for name, place, step in used:
        host = recipe.hosts.get(name)
        if host is None:
            where = spot(place, step=step, path="host")
            problems.append(Problem(where, f"unknown host `{name}`", nearest(name, list(recipe.hosts))))
        elif name not in seen:
            problems += problems_of(recipe, host)
        seen.add(name)
    return problems
