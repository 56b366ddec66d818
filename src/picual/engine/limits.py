"""Limits in words and numbers: what a forecast rules out, why a candidate was left, what would have fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from picual.engine.results import Limit
from picual.errors import StepFailed
from picual.plan import Plan
from picual.search.goals import Bound, References, Values
from picual.search.trial import Trial

FORECAST_MARGIN = 0.005  # share by which the forecast of a size may be wrong
FORECAST_SLACK = 0.002  # and megabytes, of which a graph beside its weights has few


class NothingToKeep(StepFailed):
    """A bound is a share of a reference that is zero: the fault of what is asked, not of a candidate."""


def require_reference(bounds: Sequence[Bound], references: References, *, shared: bool) -> None:
    """Refuse a bound that asks for a share of nothing.

    Args:
        bounds: Of one metric.
        references: As far as measured.
        shared: Whether every candidate is compared with the same model.

    Raises:
        NothingToKeep: The number is zero for all candidates alike: nothing is left to search.
        StepFailed: It is zero for this one.
    """
    for bound in bounds:
        if bound.asks_nothing(references):
            raise (NothingToKeep if shared else StepFailed)(
                f"`{bound.measurement}` of the unquantized model is 0, and `{bound.text}` is a share of it",
                where=f"search.subject_to.{bound.measurement}",
                hint="`picual evaluate` writes each answer to predictions.jsonl: do the data's `prompt` and"
                " `response` ask as the model was trained? Else give a number: `>= 0.5`",
            )


def key_of(bound: Bound) -> str:
    """Return what a bound is called in records: one string, however many records name it."""
    return sys.intern(f"{bound.measurement} {bound.text}")


def size_forecast(plan: Plan) -> float | None:
    """Return the megabytes that a candidate's model will have, where every step can say."""
    after = plan.steps[-1].after if plan.steps else None
    return None if after is None else after.bytes / 1e6


def explained(closest: Trial, limits: list[Limit], missing: Sequence[str], tried: str) -> tuple[str, str]:
    """Return what of the error, the closest candidate, and its hint, how far limits would have to move.

    Args:
        closest: What comes nearest to the limits.
        limits: As it stands to them.
        missing: Objectives it has no number of.
        tried: How many were, in words.
    """
    settings = ", ".join(f"{name}={value}" for name, value in closest.candidate.items()) or "the recipe as it is"
    gaps = [limit for limit in limits if limit.gap is not None and limit.gap > 0]
    unknown = [limit.measurement for limit in limits if limit.gap is None]
    what = f"no candidate keeps all limits ({tried}); closest: {settings}"
    if not gaps:
        return f"{what}: no value for {', '.join([*unknown, *missing])}", ""
    broken = "; ".join(
        f"`{one.measurement}` is {one.value:.4g}{_unit(one)}{_sampled(closest, one)},"
        f" {one.gap:.4g}{_unit(one)} beyond `{one.text}`"
        for one in gaps
    )
    moved = "; ".join(
        f"`{one.measurement}: {one.text[:2]} {_loosened(one, _doubt(closest, one))}`" for one in gaps
    )
    rest = f"; {', '.join(unknown)} was not measured" if unknown else ""
    return f"{what}: {broken}{rest}", f"it would {'come nearer with' if rest else 'fit'} {moved}"


def _sampled(closest: Trial, limit: Limit) -> str:
    values = closest.metrics.get(limit.measurement.partition(".")[0], {})
    return " on a few samples" if values.get("probe") else " by forecast" if values.get("forecast") else ""


def _doubt(closest: Trial, limit: Limit) -> float:
    """Return by how much the number may come out beyond what is known of it: a forecast may be wrong."""
    values = closest.metrics.get(limit.measurement.partition(".")[0], {})
    return doubt_of(limit.value or 0.0) if values.get("forecast") else 0.0


def _unit(limit: Limit) -> str:
    return f" {limit.unit}" if limit.unit else ""


def _loosened(limit: Limit, doubt: float) -> str:
    """Return a limit that the value keeps, with as few digits as that takes."""
    assert limit.value is not None
    upper = limit.text.startswith("<=")
    value = limit.value + doubt if upper else limit.value - doubt
    for digits in range(3, 16):
        text = f"{value:.{digits}g}"
        if float(text) >= value if upper else float(text) <= value:
            return text
    return repr(value)


def doubt_of(size: float) -> float:
    """Return by how many megabytes a forecast size may be wrong."""
    return FORECAST_MARGIN * size + FORECAST_SLACK


def forecast_violation(bound: Bound, size: float, reference: References) -> float:
    """Return by what share a size that is only forecast breaks a bound for sure; negative when it may not."""
    doubt = doubt_of(size)
    likely = size - doubt if bound.operator == "<=" else size + doubt
    gap, limit = bound.gap(likely, reference), bound.limit(reference)
    return -1.0 if gap is None or limit is None else gap / max(abs(limit), 1e-9)


def why_left(bound: Bound, values: Values, reference: References, left: list[str], *, probed: bool) -> str:
    """Return why the rest of a candidate's measurements was not taken."""
    number = bound.measurement.of(values)
    where = " on a few samples" if probed else ""
    rest = f"; not taken: {', '.join(left)}" if left else ""
    limit = bound.limit(reference)
    return f"`{bound.measurement}` is {number:.4g}{where}, to be {bound.text} (limit {limit:.4g}){rest}"
