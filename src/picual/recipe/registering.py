"""`register:` of a recipe as a value: its own words, and those of the host whose workspace it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual.errors import BadValue, PicualError, Problem, UnknownName, nearest
from picual.recipe.fields import coerce
from picual.recipe.hosting import host_of, problems_of
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import HostSpec, Place, Recipe
from picual.recipe.spots import spot
from picual.registries import kinds
from picual.registries.base import Registry
from picual.space import Settings, fields_of

OWN = ("type", "host")  # keys that are no fields of a registry


def registry_of(recipe: Recipe) -> Registry | None:
    """Return where a checked recipe registers its result, its paths absolute; None: nowhere.

    Raises:
        RecipeError: What the recipe says does not fit.
    """
    if recipe.register is None:
        return None
    kind = kinds.load(str(recipe.register.get("type", kinds.DEFAULT)))
    given = {key: value for key, value in recipe.register.items() if key not in OWN}
    values, problems = coerce(kind, given)
    if problems:
        raise BadValue(problems[0].what, hint=problems[0].hint)
    for item in fields_of(kind):
        if item.metadata.get("role") == "path" and isinstance(values.get(item.name), str):
            values[item.name] = str((Path(recipe.folder) / Path(values[item.name]).expanduser()).absolute())
    if (spec := _host(recipe, kind)) is not None:
        host = host_of(recipe, spec)
        values |= {name: getattr(host, name) for name in (*kind.place, *kind.borrowed) if name not in given}
    return kind(**{name: Settings(one) if isinstance(one, Mapping) else one for name, one in values.items()})


def register_problems(recipe: Recipe) -> list[Problem]:
    """Return what is wrong with `register:`; no workspace is asked."""
    if recipe.register is None:
        return []
    found = [] if recipe.steps else [_problem(recipe, "", "there is nothing to register: no `passes`")]
    if left := placeholder_in(recipe.register):
        return [*found, _problem(recipe, "", f"it still holds the placeholder `{left}`", "fill it in")]
    try:
        kind = kinds.load(str(recipe.register.get("type", kinds.DEFAULT)))
    except UnknownName as error:
        return [*found, _problem(recipe, "type", error.what, error.hint)]
    given = {key: value for key, value in recipe.register.items() if key not in OWN}
    _, problems = coerce(kind, given)
    found += [_problem(recipe, one.field, one.what, one.hint) for one in problems]
    try:
        spec = _host(recipe, kind)
    except PicualError as error:
        return [*found, _problem(recipe, "host", error.what, error.hint)]
    if spec is not None and (wrong := problems_of(recipe, spec)):
        return [*found, *wrong]
    if not problems:
        try:
            registry_of(recipe)
        except PicualError as error:
            field = next((item.name for item in dataclasses.fields(kind) if f"`{item.name}` " in error.what), "")
            found.append(_problem(recipe, field, error.what, error.hint))
    return found


def _host(recipe: Recipe, kind: type[Registry]) -> HostSpec | None:
    """Return the host that says where the registry is; None where the recipe itself says it.

    Raises:
        UnknownName: There is none of that name.
        BadValue: It is of another type, or it is not clear which is meant.
    """
    given: Mapping[str, Any] = recipe.register or {}
    if not kind.host_type:
        if given.get("host") is not None:
            raise BadValue(f"no host says where a `{kind.kind}` is", hint="leave out `host`")
        return None
    fitting = [name for name, spec in recipe.hosts.items() if spec.type == kind.host_type]
    named, own = given.get("host"), [name for name in kind.place if given.get(name) is not None]
    if own:
        if named is not None:
            raise BadValue(f"it names `host` and `{own[0]}`, which say the same", hint=f"leave out `{own[0]}`")
        return None
    if named is None:
        if len(fitting) == 1:
            return recipe.hosts[fitting[0]]
        which = nearest("", fitting) if fitting else f"describe one of type `{kind.host_type}` under `hosts:`"
        raise BadValue(f"it needs `host`: the recipe has {len(fitting)} of type `{kind.host_type}`", hint=which)
    if not isinstance(named, str) or named not in recipe.hosts:
        raise UnknownName(f"unknown host `{named}`", hint=nearest(str(named), fitting or list(recipe.hosts)))
    if named not in fitting:
        what = f"host `{named}` is of type `{recipe.hosts[named].type}`; it must be of type `{kind.host_type}`"
        raise BadValue(what, hint=nearest("", fitting))
    return recipe.hosts[named]


def _problem(recipe: Recipe, field: str, what: str, hint: str = "") -> Problem:
    path = f"register.{field}" if field else "register"
    place = recipe.places.get(path) or recipe.places.get("register") or Place(file=recipe.file)
    return Problem(spot(place, path=path), f"`register`: {what}", hint)
