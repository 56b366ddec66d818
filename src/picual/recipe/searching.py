"""What a recipe leaves open: its search domains as a space, and the recipe with every one of them decided.

A field's domain is ``{search: [32, 64]}``, ``{search: {low: 1, high: 64, log: true}}`` or ``{search: default}``,
the values its pass suggests. A step's is a list of whole passes; ``{type: none}`` among them leaves the step out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from picual.errors import UnknownName
from picual.metrics import registry as metric_registry
from picual.metrics.base import Metric
from picual.passes import registry as pass_registry
from picual.recipe.fields import FieldProblem, is_search
from picual.recipe.schema import MetricSpec, Place, Recipe, StepSpec
from picual.search import samplers
from picual.search.goals import Bound, resolved
from picual.search.parameters import Candidate, Parameter, Space
from picual.search.settings import Settings
from picual.search.settings import read as read_settings
from picual.space import Choice, Domain, FloatRange, IntRange, fields_of

EXAMPLE = "`{search: [32, 64]}`, `{search: {low: 1, high: 8}}` or `{search: default}`"
SIZE = "size"  # taken of every candidate: it costs nothing, and decides between equals
LEFT_OUT = "none"  # the type of an alternative that leaves the step out


def is_open(recipe: Recipe) -> bool:
    """Say whether a recipe holds a search: goals, or a domain anywhere."""
    return recipe.search is not None or any(
        alternatives(step) is not None or _domains(step) for step in recipe.steps
    )


def space_of(recipe: Recipe) -> Space:
    """Return the space of a recipe without mistakes."""
    return Space(tuple(parameter for step in recipe.steps for parameter in _parameters(step)))


def decided(recipe: Recipe, candidate: Candidate) -> Recipe:
    """Return the recipe of one candidate; nothing in it is open."""
    steps = (_decided(step, candidate) for step in recipe.steps)
    return replace(recipe, steps=tuple(step for step in steps if step.type != LEFT_OUT), search=None)


def settings_of(recipe: Recipe) -> Settings | None:
    """Return goals and limits of a recipe without mistakes, each measurement with its key; None without one."""
    if not is_open(recipe):
        return None
    settings, _ = read_settings(recipe.search or {}, samplers.names())
    kinds = {spec.name: metric_registry.load(spec.type) for spec in measured(recipe)}
    bounds = tuple(resolved_bound(bound, kinds[bound.measurement.metric]) for bound in settings.bounds)
    objectives = tuple(
        replace(one, measurement=resolved(one.measurement, kinds[one.measurement.metric].key))
        for one in settings.objectives
    )
    return replace(settings, bounds=bounds, objectives=objectives)


def resolved_bound(bound: Bound, kind: type[Metric]) -> Bound:
    """Return a bound with its measurement's key written out, in that number's own unit.

    Raises:
        BadValue: It is written in a unit of another kind.
    """
    measurement = resolved(bound.measurement, kind.key)
    return replace(bound, measurement=measurement).converted(kind.unit_of(measurement.key))


def measured(recipe: Recipe) -> tuple[MetricSpec, ...]:
    """Return the metrics of a recipe, and those that its goals name and that need no more than their name."""
    if not is_open(recipe):
        return recipe.metrics
    settings, _ = read_settings(recipe.search or {}, samplers.names())
    named = dict.fromkeys([*(one.metric for one in settings.measurements), SIZE])
    known = {spec.name for spec in recipe.metrics}
    added = [name for name in named if name not in known and needs_nothing(name)]
    return (*recipe.metrics, *(MetricSpec(name=name, type=name, place=recipe.places.get("search", Place()))
                               for name in added))  # fmt: skip


def needs_nothing(name: str) -> bool:
    """Say whether a metric can be taken without being told what to read."""
    if name not in metric_registry.names():
        return False
    kind = metric_registry.load(name)
    roles = {item.metadata.get("role") for item in fields_of(kind)}
    return kind.has_text or not roles & {"data", "code"}


def alternatives(step: StepSpec) -> dict[str, StepSpec] | None:
    """Return the passes that a step may be, by their names in candidates; None when it is one pass."""
    given = step.fields.get("search") if set(step.fields) == {"search"} else None
    if not isinstance(given, list):
        return None
    found: dict[str, StepSpec] = {}
    for one in given:
        entry = dict(one) if isinstance(one, Mapping) else {"type": one}
        kind = str(entry.pop("type", ""))
        number = sum(name == kind or name.startswith(f"{kind} ") for name in found) + 1
        found[kind if number == 1 else f"{kind} {number}"] = replace(step, type=kind, fields=entry)
    return found


def domain_problems(step: StepSpec) -> list[FieldProblem]:
    """Return what is wrong with the domains of a step, alternatives aside."""
    found = []
    for path, given, declared in _domains(step):
        domain = _domain(given, declared)
        if domain is None:
            what = f"`{path}` has no domain that can be read" if given != "default" else _no_default(path)
            found.append(FieldProblem(path, what, EXAMPLE))
            continue
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        if not values:
            found.append(FieldProblem(path, f"`{path}` has an empty search domain", "give it at least one value"))
        elif isinstance(domain, IntRange | FloatRange) and domain.low > domain.high:
            found.append(FieldProblem(path, f"`{path}` is to lie between {domain.low} and {domain.high}", EXAMPLE))
        elif isinstance(domain, IntRange | FloatRange) and domain.log and domain.low <= 0:
            found.append(FieldProblem(path, f"`{path}` has a logarithmic domain that begins at {domain.low}",
                                      "`low` must be above 0"))  # fmt: skip
    return found


def _no_default(path: str) -> str:
    return f"`{path}` has no values of its own to search"


def _parameters(step: StepSpec) -> Iterator[Parameter]:
    among = alternatives(step)
    if among is None:
        yield from (Parameter(f"{step.name}.{path}", domain) for path, domain in _read(step))
        return
    yield Parameter(step.name, Choice(tuple(among)))
    for label, one in among.items():
        for path, domain in _read(one):
            yield Parameter(f"{step.name}[{label}].{path}", domain, when=(step.name, label))


def _read(step: StepSpec) -> Iterator[tuple[str, Domain]]:
    for path, given, declared in _domains(step):
        domain = _domain(given, declared)
        if domain is not None and (not isinstance(domain, Choice) or domain.values):
            yield path, domain


def _decided(step: StepSpec, candidate: Candidate) -> StepSpec:
    among = alternatives(step)
    prefix = f"{step.name}."
    if among is not None:
        label = candidate[step.name]
        step, prefix = among[label], f"{step.name}[{label}]."
    if step.type == LEFT_OUT:
        return step
    return replace(step, fields=_filled(step.fields, prefix, candidate))


def _filled(fields: Mapping[str, Any], prefix: str, candidate: Candidate) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for name, value in fields.items():
        if is_search(value):
            if prefix + name in candidate:  # a domain that could not be read leaves the default
                filled[name] = candidate[prefix + name]
        elif isinstance(value, Mapping):
            filled[name] = _filled(value, f"{prefix}{name}.", candidate)
        else:
            filled[name] = value
    return filled


def _domains(step: StepSpec) -> list[tuple[str, Any, Domain | None]]:
    """Return path, domain as given and the pass's own domain of each open field."""
    if alternatives(step) is not None:
        return []
    try:
        kind = pass_registry.load(step.type)
    except UnknownName:
        return []
    declared = {item.name: item.metadata.get("search") for item in fields_of(kind)}
    found: list[tuple[str, Any, Domain | None]] = []
    for name, value in step.fields.items():
        if is_search(value):
            found.append((name, value["search"], declared.get(name)))
        elif isinstance(value, Mapping):
            found += [(f"{name}.{key}", one["search"], None) for key, one in value.items() if is_search(one)]
    return found


def _domain(given: Any, declared: Domain | None) -> Domain | None:
    if given == "default":
        return declared
    if isinstance(given, list):
        return Choice(tuple(given))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        return None
    low, high, log = given["low"], given["high"], given.get("log", False)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
    if not numbers or not isinstance(log, bool):
        return None
    if isinstance(low, int) and isinstance(high, int):
        return IntRange(low, high, log)
    return FloatRange(float(low), float(high), log)
