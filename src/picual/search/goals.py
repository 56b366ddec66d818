"""What a search is after: objectives in order of priority, and bounds that a candidate must keep.

A measurement is ``METRIC``, the metric's main number, or ``METRIC.KEY``. A bound is written as
``<= 110MB``, ``>= 0.99 * unquantized`` or ``<= baseline - 20%``; a share is of the reference's absolute value, so
that "better by 5 %" means the same for a number below zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from picual.errors import BadValue

Reference = Literal["baseline", "unquantized"]
Values = Mapping[str, Mapping[str, Any]]  # by metric
References = Mapping[str, Values]  # by stage

# Kind and size of each unit; a number without a unit may be given in percent.
UNITS = {
    "": ("share", 1.0), "%": ("share", 0.01), "b": ("size", 1.0), "kb": ("size", 1e3), "mb": ("size", 1e6),
    "gb": ("size", 1e9), "s": ("time", 1.0), "ms": ("time", 1e-3), "nats": ("nat", 1.0),
}  # fmt: skip
EXAMPLE = "write `>= 0.85`, `<= 110MB`, `>= 0.99 * unquantized` or `<= baseline - 20%`"
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_BOUND = re.compile(
    rf"(<=|>=)\s*(?:{_NUMBER}\s*([A-Za-z/%]*)|(?:{_NUMBER}\s*(%?)\s*\*\s*)?(baseline|unquantized)"
    rf"(?:\s*([+-])\s*{_NUMBER}\s*([A-Za-z/%]*))?)"
)


@dataclass(frozen=True)
class Measurement:
    """One number: a metric by its name in the recipe, and the key of one of its values ("" is the main one)."""

    metric: str
    key: str = ""

    def __str__(self) -> str:
        """Return it as a recipe writes it."""
        return f"{self.metric}.{self.key}" if self.key else self.metric

    @classmethod
    def read(cls, text: str) -> Measurement:
        """Read ``METRIC`` or ``METRIC.KEY``."""
        metric, _, key = text.partition(".")
        return cls(metric.strip(), key.strip())

    def of(self, values: Values) -> float | None:
        """Return the number among the values of a model; None when it is missing or not finite."""
        number = values.get(self.metric, {}).get(self.key)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return None
        return float(number)

    def interval(self, values: Values) -> tuple[float, float] | None:
        """Return the 95 % interval of a number that would come out otherwise when taken again, if it has one."""
        return self._pair(values, "intervals")

    def spread(self, values: Values) -> tuple[float, float] | None:
        """Return where the number would lie on other samples of the same kind, if that is known."""
        return self._pair(values, "spread") or self.interval(values)

    def _pair(self, values: Values, among: str) -> tuple[float, float] | None:
        found = values.get(self.metric, {}).get(among, {}).get(self.key)
        return None if found is None else (float(found[0]), float(found[1]))


@dataclass(frozen=True)
class Objective:
    """One number to make small or large."""

    measurement: Measurement
    direction: Literal["minimize", "maximize"]

    def loss(self, values: Values) -> float | None:
        """Return what is to be made small; None when it was not measured."""
        number = self.measurement.of(values)
        return number if number is None or self.direction == "minimize" else -number


@dataclass(frozen=True)
class Bound:
    """One limit: ``factor * reference + offset + share * |reference|``, or the offset alone.

    ``unit`` is the offset's as it was written; none after ``converted``.
    """

    measurement: Measurement
    operator: Literal["<=", ">="]
    text: str
    reference: Reference | None = None
    factor: float = 1.0
    offset: float = 0.0
    share: float = 0.0
    unit: str = ""

    @classmethod
    def read(cls, measurement: Measurement, text: str) -> Bound:
        """Read a bound.

        Raises:
            BadValue: It is not written as one.
        """
        found = _BOUND.fullmatch(text.strip())
        if found is None:
            raise BadValue(f"`{text}` is no bound", hint=EXAMPLE)
        operator, plain, unit, factor, percent, reference, sign, offset, offset_unit = found.groups()
        kind: Literal["<=", ">="] = "<=" if operator == "<=" else ">="
        if plain is not None:
            return cls(measurement, kind, text, offset=float(plain), unit=unit)
        times = 1.0 if factor is None else float(factor) * (0.01 if percent else 1.0)
        moved = 0.0 if offset is None else float(offset) * (-1 if sign == "-" else 1)
        named: Reference = "baseline" if reference == "baseline" else "unquantized"
        if offset_unit == "%":
            return cls(measurement, kind, text, named, times, share=moved / 100)
        return cls(measurement, kind, text, named, times, offset=moved, unit=offset_unit or "")

    def converted(self, own: str) -> Bound:
        """Return it in the unit of the number that it bounds; without a unit it already is.

        Raises:
            BadValue: It is written in a unit of another kind.
        """
        if not self.unit:
            return self
        kind, size = _kind_and_size(self.unit)
        own_kind, own_size = _kind_and_size(own)
        if kind != own_kind:
            what = f"`{self.text}` is in {self.unit}, and `{self.measurement}` is in {own or 'no unit'}"
            share = f"`{self.operator} {self.offset:g} * unquantized`" if self.unit.lower() == "x" else ""
            raise BadValue(what, hint=share or f"`{self.operator} {self.offset:g}{own}`")
        return replace(self, offset=self.offset * size / own_size, unit="")

    def limit(self, references: References) -> float | None:
        """Return the limit as a number; None when the reference was not measured."""
        if self.reference is None:
            return self.offset
        known = self.measurement.of(references.get(self.reference, {}))
        if known is None:
            return None
        return self.factor * known + self.offset + self.share * abs(known)

    def asks_nothing(self, references: References) -> bool:
        """Say whether it is a share of an unquantized model's zero, which every number from zero on keeps.

        An input model may well be at zero before it has learnt anything; what is exported must be good for
        something.
        """
        if self.reference != "unquantized" or self.operator != ">=":
            return False
        return self.measurement.of(references.get(self.reference, {})) == 0 == self.limit(references)

    def gap(self, number: float, references: References) -> float | None:
        """Return by how much a number breaks the bound: positive when it does, in the number's own unit."""
        limit = self.limit(references)
        if limit is None:
            return None
        return number - limit if self.operator == "<=" else limit - number

    def violation(self, values: Values, references: References) -> float:
        """Return the gap as a share of the limit; infinite when the number or the reference is missing."""
        number = self.measurement.of(values)
        gap = None if number is None else self.gap(number, references)
        if gap is None:
            return math.inf
        return gap / max(abs(self.limit(references) or 0.0), 1e-9)

    def is_out_of_reach(self, values: Values, references: References) -> bool:
        """Say whether even the better end of the number's spread breaks the bound."""
        number = self.measurement.of(values)
        if number is None:
            return False
        low, high = self.measurement.spread(values) or (number, number)
        gap = self.gap(low if self.operator == "<=" else high, references)
        return gap is not None and gap > 0


def contradictions(bounds: Sequence[Bound]) -> list[tuple[Bound, Bound]]:
    """Return pairs of bounds of one number that no number keeps, whatever a reference from zero on is."""
    pairs = [(lower, upper) for lower in bounds for upper in bounds
             if (lower.operator, upper.operator) == (">=", "<=") and lower.measurement == upper.measurement
             and lower.reference == upper.reference]  # fmt: skip
    return [(lower, upper) for lower, upper in pairs if _is_above(lower, upper)]


def _is_above(lower: Bound, upper: Bound) -> bool:
    slopes = [0.0 if one.reference is None else one.factor + one.share for one in (lower, upper)]
    apart = (slopes[0] - slopes[1], lower.offset - upper.offset)
    return min(apart) >= 0 and max(apart) > 0


def resolved(measurement: Measurement, main_key: str) -> Measurement:
    """Return a measurement with its key written out: the main one of its metric where none is named."""
    return measurement if measurement.key else Measurement(measurement.metric, main_key)


def _kind_and_size(unit: str) -> tuple[str, float]:
    return UNITS.get(unit.lower(), (unit.lower(), 1.0))
