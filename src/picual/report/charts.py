"""Where things stand in a chart, as shares of its width and height; the templates turn them into SVG.

A chart is drawn in shares, not in pixels, so that it fits any width while its letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from picual.report.numbers import MINUS

TICKS = 5  # about so many
PAD = 0.06  # share of the range left free at each end, so that no mark is cut
CURVE_UNITS = 1000  # of a curve's own coordinates
CURVE_POINTS = 160  # more are thinned


@dataclass(frozen=True)
class Scale:
    """An axis: the values at its ends, and its ticks as (share, text)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Return where a value stands, as a share of the axis."""
        return round((value - self.low) / (self.high - self.low), 4)


def scale(values: Sequence[float], *, factor: float = 1.0, pad: float = PAD) -> Scale:
    """Return an axis over finite values.

    Args:
        values: At least one.
        factor: What a value is multiplied by to be shown.
        pad: Share of the range left free at each end.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(high) * 0.1 or 1.0
        low, high, pad = low - room, high + room, 0.0
    low, high = low - pad * (high - low), high + pad * (high - low)
    step = _round_step((high - low) * factor / TICKS)
    first = math.ceil(low * factor / step - 1e-9)
    last = math.floor(high * factor / step + 1e-9)
    ticks = [(number * step / factor, _tick_text(number * step, step)) for number in range(first, last + 1)]
    empty = Scale(low, high, ())
    return Scale(low, high, tuple((empty.at(value), text) for value, text in ticks))


def _round_step(rough: float) -> float:
    """Return the next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((size * power for size in (1, 2, 2.5, 5) if size * power >= rough * 0.999), 10 * power)


def _has_one_digit(step: float) -> bool:
    return abs(step / 10.0 ** math.floor(math.log10(step) + 1e-9) - 2.5) > 1e-6


def _tick_text(value: float, step: float) -> str:
    """Return a tick with as many digits as tell it from the next one."""
    last = math.floor(math.log10(step) + 1e-9) - (not _has_one_digit(step))  # power of ten of its last digit
    if last >= -5 and abs(value) < 1e9:
        return f"{value + 0.0:,.{max(0, -last)}f}".replace("-", MINUS)
    if abs(value) < step / 2:
        return "0"
    return f"{value:.{max(1, math.floor(math.log10(abs(value))) - last + 1)}g}".replace("-", MINUS)


@dataclass(frozen=True)
class Line:
    """One curve: the points of its polyline in units of the chart, and its ends in words."""

    name: str
    points: str
    summary: str


@dataclass(frozen=True)
class CurveChart:
    """Curves that share both axes."""

    title: str
    x: Scale
    y: Scale
    lines: tuple[Line, ...]


def curve_chart(title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> CurveChart | None:
    """Return the chart of some curves; None when they have no two finite points between them."""
    finite = [(name, [point for point in points if all(map(math.isfinite, point))]) for name, points in curves]
    finite = [(name, points) for name, points in finite if points]
    everything = [point for _, points in finite for point in points]
    if len(everything) < 2:
        return None
    x = scale([point[0] for point in everything], pad=0.0)
    y = scale([point[1] for point in everything])
    lines = tuple(Line(name, _polyline(thinned(points), x, y), _summary(points)) for name, points in finite)
    return CurveChart(title, x, y, lines)


def thinned(points: Sequence[tuple[float, float]], most: int = CURVE_POINTS) -> list[tuple[float, float]]:
    """Return about ``most`` of the points: lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    length = len(points) / (most // 2)
    kept = {0, len(points) - 1}
    for number in range(most // 2):
        stretch = range(int(number * length), int((number + 1) * length))
        kept.add(min(stretch, key=lambda index: points[index][1]))
        kept.add(max(stretch, key=lambda index: points[index][1]))
    return [points[index] for index in sorted(kept)]


def _polyline(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    places = ((x.at(a), 1 - y.at(b)) for a, b in points)
    return " ".join(f"{CURVE_UNITS * a:.0f},{CURVE_UNITS * b:.0f}" for a, b in places)


def _summary(points: Sequence[tuple[float, float]]) -> str:
    low = min(points, key=lambda point: point[1])
    return (
        f"from {points[0][1]:.4g} to {points[-1][1]:.4g} in {len(points)} points, "
        f"lowest {low[1]:.4g} at {low[0]:.6g}"
    )
