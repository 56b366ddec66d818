"""Mistakes in a search: domains that cannot be read, goals that name nothing, limits that no number keeps."""

from __future__ import annotations

from collections.abc import Iterator

from picual.errors import BadValue, Problem, UnknownName, nearest
from picual.metrics import registry as metric_registry
from picual.metrics.base import Metric
from picual.recipe import searching
from picual.recipe.schema import Place, Recipe, StepSpec
from picual.recipe.spots import spot
from picual.search import samplers
from picual.search.goals import Bound, Measurement, contradictions
from picual.search.settings import Settings
from picual.search.settings import read as read_settings
from picual.space import Choice

MOST_VALUES = 50  # of one parameter that are checked one by one


def search_problems(recipe: Recipe) -> list[Problem]:
    """Return what is wrong with the search of a recipe; nothing when there is none."""
    problems = [problem for step in recipe.steps for problem in _step_problems(recipe, step)]
    if not searching.is_open(recipe):
        return problems
    settings, findings = read_settings(recipe.search or {}, samplers.names())
    findings += [*_goal_findings(recipe, settings), *_space_findings(recipe, settings)]
    for key, what, hint in findings:
        place = recipe.places.get(f"search.{key}") or recipe.places.get("search") or Place(file=recipe.file)
        problems.append(Problem(spot(place, path=f"search.{key}" if key else "search"), what, hint))
    return problems


def single_recipes(recipe: Recipe) -> Iterator[Recipe]:
    """Return recipes without a search that hold between them every value a search may choose.

    The first has the best guess of every parameter; each other differs from it in one.
    """
    space = searching.space_of(recipe)
    first = space.first()
    yield searching.decided(recipe, first)
    for parameter in space.parameters:
        domain = parameter.domain
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in values[:MOST_VALUES]:
            base = first if parameter.when is None else {**first, parameter.when[0]: parameter.when[1]}
            candidate = {**base, parameter.name: value}
            for other in space.parameters:  # what an alternative brings with it
                if other.exists(candidate):
                    candidate.setdefault(other.name, other.first())
            if candidate != first:
                yield searching.decided(recipe, candidate)


def _step_problems(recipe: Recipe, step: StepSpec) -> Iterator[Problem]:
    title = f"step {recipe.steps.index(step) + 1} `{step.name}`"
    among = searching.alternatives(step)
    if among is not None and not among:
        yield Problem(spot(step.place, step=title), "there is no pass to choose from", "name at least one pass")
    for one in [step] if among is None else among.values():
        for problem in searching.domain_problems(one):
            place = step.places.get(problem.field) or step.places.get(problem.field.split(".")[0]) or step.place
            yield Problem(spot(place, step=title), problem.what, problem.hint)


def _space_findings(recipe: Recipe, settings: Settings) -> Iterator[tuple[str, str, str]]:
    space = searching.space_of(recipe)
    if space.parameters and not settings.measurements:
        yield "", "the search has no goal", "say what is best: `search: {minimize: size}`, or what it must keep"
    if settings.sampler in {"grid", "gp"} and space.candidates() is None:
        yield (
            "sampler",
            f"`{settings.sampler}` needs a space that can be counted",
            "`sampler: tpe`, or lists of values",
        )
    if settings.sampler == "bisect" and (len(space.parameters) != 1 or space.candidates() is None):
        yield (
            "sampler",
            f"`bisect` halves a list of values of one parameter, and this search has {len(space.parameters)}",
            "`sampler: auto`, or a list for the one that is to be halved",
        )


def _goal_findings(recipe: Recipe, settings: Settings) -> Iterator[tuple[str, str, str]]:
    known = {spec.name: spec.type for spec in searching.measured(recipe)}
    bounds = []
    for bound in settings.bounds:
        yield from _measurement_findings("subject_to", bound.measurement, known)
        yield from _reference_findings(bound, known)
        kind = _kind(known.get(bound.measurement.metric, ""))
        try:
            bounds += [searching.resolved_bound(bound, kind)] if kind is not None else []
        except BadValue as error:
            yield "subject_to", error.what, error.hint
    for lower, upper in contradictions(bounds):
        what = f"no value of `{lower.measurement}` is both `{lower.text}` and `{upper.text}`"
        yield "subject_to", what, "move one of the two limits"
    for objective in settings.objectives:
        yield from _measurement_findings(objective.direction, objective.measurement, known)


def _measurement_findings(
    key: str, measurement: Measurement, known: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    name = measurement.metric
    if name in known:
        kind = _kind(known[name])
        if kind is not None and measurement.key and kind.keys and measurement.key not in kind.keys:
            hint = nearest(measurement.key, kind.keys) or ", ".join(kind.keys)
            yield key, f"metric `{name}` has no number `{measurement.key}`", hint
        return
    if name in metric_registry.names():
        yield key, f"`{name}` must be told what to read", f"`metrics: {{{name}: {{data: ...}}}}`"
        return
    yield key, f"there is no metric `{name}`", nearest(name, [*known, *metric_registry.names()])


def _reference_findings(bound: Bound, known: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Refuse a limit that is relative to a model which the metric is not taken of."""
    kind = _kind(known.get(bound.measurement.metric, ""))
    if bound.reference is not None and kind is not None and not kind.has_reference_values:
        what = f"`{bound.measurement.metric}: {bound.text}`: `{kind.name}` has no value for `{bound.reference}`"
        yield "subject_to", what, f"give a number: `{bound.measurement.metric}: {bound.operator} 0.1`"


def _kind(name: str) -> type[Metric] | None:
    try:
        return metric_registry.load(name)
    except UnknownName:
        return None
