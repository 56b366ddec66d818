"""Limits in words and numbers: what a forecast rules out, why a candidate was left, what would have fit."""

from __future__ import annotations

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


def require_reference(bounds: Sequence[Bound], references: References) -> None:
    """Stop when a bound asks for a share of nothing.

    Raises:
        NothingToKeep: The reference model's number is zero.
    """
    for bound in bounds:
        if bound.asks_nothing(references):
            raise NothingToKeep(
                f"`{bound.measurement}` of the {bound.reference} model is 0, and `{bound.text}` is a share of it",
                where=f"search.subject_to.{bound.measurement}",
                hint="`picual evaluate` writes each answer to predictions.jsonl: do the data's `prompt` and"
                " `response` ask as the model was trained?",
            )


def key_of(bound: Bound) -> str:
    """Return what a bound is called in records."""
    return f"{bound.measurement} {bound.text}"


def size_forecast(plan: Plan) -> float | None:
    """Return the megabytes that a candidate's model will have, where every step can say."""
    after = plan.steps[-1].after if plan.steps else None
    return None if after is None else after.bytes / 1e6


def explained(closest: Trial, limits: list[Limit], tried: int, ruled_out: int) -> tuple[str, str]:
    """Return what of the error, the closest candidate, and its hint, how far limits would have to move."""
    settings = ", ".join(f"{name}={value}" for name, value in closest.candidate.items()) or "the recipe as it is"
    gaps = [limit for limit in limits if limit.gap is not None and limit.gap > 0]
    unknown = ", ".join(one.measurement for one in limits if one.gap is None)
    what = f"no candidate keeps all limits ({tried} tried, {ruled_out} ruled out beforehand); closest: {settings}"
    if not gaps:
        return f"{what}: no value for {unknown}", ""
    broken = "; ".join(
        f"`{one.measurement}` is {one.value:.4g}{_unit(one)}, {one.gap:.4g}{_unit(one)} beyond `{one.text}`"
        for one in gaps
    )
    moved = "; ".join(f"`{one.measurement}: {one.text[:2]} {_loosened(one)}`" for one in gaps)
    return f"{what}: {broken}", f"it would fit {moved}"


def _unit(limit: Limit) -> str:
    return f" {limit.unit}" if limit.unit else ""


def _loosened(limit: Limit) -> str:
    """Return a limit that the value keeps, with as few digits as that takes."""
    assert limit.value is not None
    for digits in range(3, 16):
        text = f"{limit.value:.{digits}g}"
        nudged = float(text)
        if nudged >= limit.value if limit.text.startswith("<=") else nudged <= limit.value:
            return text
    return repr(limit.value)


def forecast_violation(bound: Bound, size: float, reference: References) -> float:
    """Return by what share a size that is only forecast breaks a bound for sure; negative when it may not."""
    doubt = FORECAST_MARGIN * size + FORECAST_SLACK
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
