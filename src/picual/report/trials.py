"""The candidates of a search: the table of trials, and the plot of any two of their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picual.report.charts import Scale, scale
from picual.report.constraints import Constraint, constraints_of
from picual.report.numbers import MISSING, Measure, compact, duration, goals, measures_in
from picual.report.reading import is_number, mapping, mappings, number
from picual.report.verdict import settings_text

FATES = {
    "feasible": "meets all limits", "infeasible": "breaks a limit", "dropped": "dropped early", "failed": "failed",
}  # fmt: skip
MOST_AXES = 16
FEWEST_FOR_A_PLOT = 2
# A limit further away than this many times the spread of the trials is left out of the plot.
FARTHEST_LIMIT = 2.0


@dataclass(frozen=True)
class TrialCell:
    """One cell of the table: its text, and what it is sorted by."""

    text: str
    order: float | str | None = None


@dataclass(frozen=True)
class TrialRow:
    """One trial as a row of the table and a mark in the plot."""

    number: int
    fate: str
    standing: str  # best, closest, tied or nothing
    rank: int | None
    is_pareto: bool
    settings: tuple[TrialCell, ...]
    numbers: tuple[TrialCell, ...]
    why: str
    seconds: float
    ran: int
    told: tuple[str, ...]  # lines of its tooltip

    @property
    def fate_text(self) -> str:
        """The fate in words."""
        return FATES[self.fate]

    @property
    def mark(self) -> str:
        """The symbol in the plot."""
        if self.standing in {"best", "closest"}:
            return self.standing
        return "pareto" if self.is_pareto and self.fate == "feasible" else self.fate

    @property
    def seconds_text(self) -> str:
        """The time it took."""
        return duration(self.seconds)


@dataclass(frozen=True)
class TrialTable:
    """All trials: settings, then numbers."""

    parameters: tuple[str, ...]
    measures: tuple[Measure, ...]
    rows: tuple[TrialRow, ...]

    @property
    def fates(self) -> dict[str, str]:
        """The fates that occur, with how often."""
        counts = {fate: sum(row.fate == fate for row in self.rows) for fate in FATES}
        return {fate: f"{FATES[fate]} ({count})" for fate, count in counts.items() if count}


def trial_table(report: Mapping[str, Any]) -> TrialTable | None:
    """Return the trials, best first; None without any."""
    trials = mappings(report.get("trials"))
    if not trials:
        return None
    parameters = list(dict.fromkeys(name for trial in trials for name in mapping(trial.get("candidate"))))
    asked = goals(report)
    measures = measures_in(report, [mapping(trial.get("metrics")) for trial in trials])
    shown = [one for one in measures if one.is_main or (one.metric, one.key) in asked]
    shown.sort(
        key=lambda one: asked.index((one.metric, one.key)) if (one.metric, one.key) in asked else len(asked)
    )
    rows = [_row(trial, parameters, shown, mapping(report.get("search"))) for trial in trials]
    rows.sort(key=lambda row: (row.rank is None, row.rank or 0, list(FATES).index(row.fate), row.number))
    return TrialTable(tuple(parameters), tuple(shown), tuple(rows))


def fate_of(trial: Mapping[str, Any]) -> str:
    """Return what became of a trial."""
    state = str(trial.get("state"))
    if state == "complete":
        return "feasible" if trial.get("feasible") else "infeasible"
    return state if state in FATES else "failed"


def _row(
    trial: Mapping[str, Any], parameters: Sequence[str], measures: Sequence[Measure], search: Mapping[str, Any]
) -> TrialRow:
    candidate, metrics = mapping(trial.get("candidate")), mapping(trial.get("metrics"))
    place, rank = number(trial.get("number")), number(trial.get("rank"))
    values = [(measure, measure.of(metrics)) for measure in measures]
    return TrialRow(
        number=int(place or 0),
        fate=fate_of(trial),
        standing=_standing(trial, search),
        rank=None if rank is None else int(rank),
        is_pareto=bool(trial.get("pareto")),
        settings=tuple(_setting(candidate.get(name, MISSING)) for name in parameters),
        numbers=tuple(TrialCell(measure.text(value, unit=False), _order(value)) for measure, value in values),
        why=_why(trial),
        seconds=number(trial.get("seconds")) or 0.0,
        ran=int(number(trial.get("ran")) or 0),
        told=(settings_text(candidate), *(f"{one.label}: {one.text(v)}" for one, v in values if v is not None)),
    )


def _standing(trial: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    if trial.get("number") is not None:
        for name in ("best", "closest"):
            if search.get(name) == trial.get("number") and (name == "best" or search.get("best") is None):
                return name
    return "tied" if trial.get("tied") else ""


def _setting(value: Any) -> TrialCell:
    text = compact(value)
    return TrialCell(text, float(value) if is_number(value) else text)


def _order(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _why(trial: Mapping[str, Any]) -> str:
    """Return why a trial was dropped or failed, or which limits it breaks and by what share."""
    if trial.get("why"):
        return str(trial["why"])
    broken = []
    for name, amount in mapping(trial.get("violations")).items():
        share = number(amount)
        if share is None or not math.isfinite(share):
            broken.append(f"{name} was not measured")
        elif share > 0:
            broken.append(f"{name} by {100 * share:.2g} %")
    return "; ".join(broken)


@dataclass(frozen=True)
class Axis:
    """One number that the plot can show: where each trial stands on it, by trial number."""

    name: str
    title: str
    better: str
    scale: Scale
    places: Mapping[int, float]
    limits: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Plot:
    """The plot of the trials: all its axes, the two it opens with, and the front of every pair."""

    axes: tuple[Axis, ...]
    x: Axis
    y: Axis
    fronts: Mapping[str, tuple[int, ...]]  # "0,3": trials, of the axes at these places
    rows: tuple[TrialRow, ...]  # that have a place on some axis

    @property
    def front(self) -> str:
        """The points of the first front, in units of a curve."""
        pair = sorted((self.axes.index(self.x), self.axes.index(self.y)))
        return front_line(self.x, self.y, self.fronts.get(f"{pair[0]},{pair[1]}", ()))

    def to_wire(self) -> dict[str, Any]:
        """Return what the page's script needs to show other axes."""
        axes = [
            {
                "title": axis.title, "ticks": axis.scale.ticks, "places": axis.places, "limits": axis.limits,
                "better": axis.better,
            }
            for axis in self.axes
        ]  # fmt: skip
        return {"axes": axes, "fronts": self.fronts}


def plot(report: Mapping[str, Any], table: TrialTable | None) -> Plot | None:
    """Return the plot of the trials; None when no two axes have enough trials on them."""
    if table is None:
        return None
    axes = [*_measured_axes(report), *_setting_axes(report, table)][:MOST_AXES]
    if len(axes) < 2:
        return None
    y, x = _first_axes(report, axes)
    placed = {number for axis in axes for number in axis.places}
    return Plot(
        axes=tuple(axes), x=x, y=y, fronts=_fronts(axes, table.rows),
        rows=tuple(sorted((row for row in table.rows if row.number in placed), key=lambda row: row.number)),
    )  # fmt: skip


def _measured_axes(report: Mapping[str, Any]) -> list[Axis]:
    trials = {
        int(number(one.get("number")) or 0): mapping(one.get("metrics")) for one in mappings(report["trials"])
    }
    limits = constraints_of(report)
    axes = []
    for measure in measures_in(report, list(trials.values())):
        values = {trial: measure.of(metrics) for trial, metrics in trials.items()}
        bounds = [one for one in limits if one.measure.name == measure.name and one.limit is not None]
        title = measure.heading
        axis = _axis(measure.name, title, values, better=measure.better, factor=measure.factor, limits=bounds)
        axes += [axis] if axis else []
    return axes


def _setting_axes(report: Mapping[str, Any], table: TrialTable) -> list[Axis]:
    axes = []
    for name in table.parameters:
        values = {
            int(number(one.get("number")) or 0): number(mapping(one.get("candidate")).get(name))
            for one in mappings(report["trials"])
        }
        axis = _axis(name, name, values)
        axes += [axis] if axis else []
    return axes


def _axis(
    name: str, title: str, values: Mapping[int, float | None], *, better: str = "", factor: float = 1.0,
    limits: Sequence[Constraint] = (),
) -> Axis | None:  # fmt: skip
    known = {trial: value for trial, value in values.items() if value is not None and math.isfinite(value)}
    if len(known) < FEWEST_FOR_A_PLOT or min(known.values()) == max(known.values()):
        return None
    low, high = min(known.values()), max(known.values())
    room = FARTHEST_LIMIT * (high - low)
    near = [one for one in limits if one.limit is not None and low - room <= one.limit <= high + room]
    numbers = [one.limit for one in near if one.limit is not None]
    made = scale([low, high, *numbers], factor=factor)
    lines = tuple((made.at(limit), one.limit_text) for one, limit in zip(near, numbers, strict=True))
    return Axis(name, title, better, made, {trial: made.at(value) for trial, value in known.items()}, lines)


def _first_axes(report: Mapping[str, Any], axes: Sequence[Axis]) -> tuple[Axis, Axis]:
    """Return the axes the plot opens with, upright one first: objectives, then limits, then whatever there is."""
    by_name = {axis.name: axis for axis in axes}
    wanted = [by_name[f"{metric}.{key}"] for metric, key in goals(report) if f"{metric}.{key}" in by_name]
    chosen = list({axis.name: axis for axis in [*wanted, *axes]}.values())
    return chosen[0], chosen[1]


def _fronts(axes: Sequence[Axis], rows: Sequence[TrialRow]) -> dict[str, tuple[int, ...]]:
    """Return, for each pair of axes with a better end, the feasible trials that none beats in both."""
    feasible = [row.number for row in rows if row.fate == "feasible"]
    fronts = {}
    for first, one in enumerate(axes):
        for second in range(first + 1, len(axes)):
            other = axes[second]
            if one.better and other.better:
                fronts[f"{first},{second}"] = _front(one, other, feasible)
    return fronts


def _front(one: Axis, other: Axis, trials: Sequence[int]) -> tuple[int, ...]:
    losses = {
        trial: tuple((-1 if axis.better == "higher" else 1) * axis.places[trial] for axis in (one, other))
        for trial in trials
        if trial in one.places and trial in other.places
    }
    kept = [
        trial
        for trial, loss in losses.items()
        if not any(
            all(a <= b for a, b in zip(rival, loss, strict=True)) and rival != loss for rival in losses.values()
        )
    ]
    return tuple(sorted(kept, key=lambda trial: losses[trial]))


def front_line(x: Axis, y: Axis, front: Sequence[int]) -> str:
    """Return the polyline of a front in units of a curve: straight from trial to trial."""
    places = sorted((x.places[trial], y.places[trial]) for trial in front)
    return " ".join(f"{1000 * a:.0f},{1000 * (1 - b):.0f}" for a, b in places)
