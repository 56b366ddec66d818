"""The limits of a run, and how the model stands to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.report.numbers import SHARE, Measure, digits, measure_of
from picual.report.reading import mappings, number


@dataclass(frozen=True)
class Constraint:
    """One limit: as it was written, as a number, and what the best or closest candidate has."""

    measure: Measure
    bound: str
    limit: float | None
    value: float | None
    met: bool
    gap: float | None

    @property
    def limit_text(self) -> str:
        """The limit as a number with its direction: `≤ 115 MB`."""
        return f"{'≥' if self.bound.lstrip().startswith('>') else '≤'} {self.measure.text(self.limit)}"

    @property
    def standing(self) -> str:
        """What became of it."""
        if self.met:
            return "kept"
        return "not measured" if self.value is None else "broken"

    @property
    def gap_text(self) -> str:
        """By how much the limit would have to move; nothing when it is met."""
        if self.met or self.gap is None:
            return ""
        gap = abs(self.gap)
        return f"{digits(round(100 * gap, 4))} points" if self.measure.unit == SHARE else self.measure.text(gap)


def constraints_of(report: Mapping[str, Any]) -> list[Constraint]:
    """Return the limits in the order of the report."""
    return [
        Constraint(
            measure=measure_of(report, str(one.get("metric")), str(one.get("key"))),
            bound=str(one.get("bound", "")),
            limit=number(one.get("limit")),
            value=number(one.get("value")),
            met=bool(one.get("met")),
            gap=number(one.get("gap")),
        )
        for one in mappings(report.get("constraints"))
    ]
