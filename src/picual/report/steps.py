"""What was done: times, curves, checks and layer errors of the steps, and what was left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.report.charts import CurveChart, Scale, curve_chart, scale
from picual.report.numbers import MISSING, compact, digits, duration
from picual.report.reading import is_number, mapping, mappings, number
from picual.report.trials import FATES, fate_of

MOST_LAYERS = 400  # bars
WORST_LAYERS = 10
MOST_SITES = 4  # named of a group of skipped places
KINDS = {
    "defaulted": "a default was used", "ignored": "not used", "replaced": "replaced", "later": "not yet supported",
    "chosen": "chosen",
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One step in the timeline; start and width are shares of the run, None when it came from the store."""

    name: str
    a_pass: str
    cached: bool
    seconds: str
    start: float | None
    width: float | None
    peak: str
    checks: str
    numbers: str


def timeline(report: Mapping[str, Any]) -> list[Bar]:
    """Return the steps in order."""
    steps = mappings(report.get("steps"))
    starts: list[float | None] = []
    clock = 0.0
    for step in steps:  # an older report has no starts: its steps ran one after the other
        known = number(step.get("start"))
        seconds = number(step.get("seconds")) or 0.0
        start = None if step.get("cached") else (clock if known is None else known)
        starts.append(start)
        clock = clock if start is None else max(clock, start + seconds)
    whole = max(clock, 1e-9)  # not the run's: beside a search its steps would be too short to see
    return [_bar(step, start, whole) for step, start in zip(steps, starts, strict=True)]


def _bar(step: Mapping[str, Any], start: float | None, whole: float) -> Bar:
    seconds = number(step.get("seconds")) or 0.0
    checks = mappings(step.get("checks"))
    passed = sum(bool(check.get("passed")) for check in checks)
    peak = number(step.get("peak_rss_mb"))
    return Bar(
        name=str(step.get("name")),
        a_pass=str(step.get("pass")),
        cached=bool(step.get("cached")),
        seconds=duration(seconds),
        start=None if start is None else round(100 * start / whole, 2),
        width=None if start is None else round(100 * min(seconds, whole - start) / whole, 2),
        peak=MISSING if not peak else f"{peak:,.0f} MB",
        checks=f"{passed} of {len(checks)} passed" if checks else MISSING,
        numbers=", ".join(f"{key} {compact(value)}" for key, value in _plain(step.get("metrics")).items()),
    )


def _plain(values: Any) -> dict[str, Any]:
    return {
        str(key): value for key, value in mapping(values).items() if is_number(value) or isinstance(value, str)
    }


def curve_charts(report: Mapping[str, Any]) -> list[tuple[str, list[CurveChart]]]:
    """Return the charts of each step that kept curves: its losses together, each other curve alone."""
    found = []
    for step in mappings(report.get("steps")):
        curves = {str(name): _points(points) for name, points in mapping(step.get("curves")).items()}
        losses = [(name, points) for name, points in curves.items() if "loss" in name]
        others = [(name, points) for name, points in curves.items() if "loss" not in name]
        charts = [curve_chart("loss" if len(losses) > 1 else "".join(name for name, _ in losses), losses)]
        charts += [curve_chart(name.replace("_", " "), [(name, points)]) for name, points in others]
        drawn = [chart for chart in charts if chart is not None]
        if drawn:
            found.append((str(step.get("name")), drawn))
    return found


def _points(points: Any) -> list[tuple[float, float]]:
    pairs = points if isinstance(points, list) else []
    return [
        (float(pair[0]), float(pair[1]))
        for pair in pairs
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(map(is_number, pair))
    ]


@dataclass(frozen=True)
class LayerErrors:
    """The error of each layer of a step, in the order of the journal, and the worst of them."""

    step: str
    axis: Scale
    layers: tuple[tuple[str, str, float], ...]  # name, error as text, height as a share
    worst: tuple[tuple[str, str, str], ...]  # name, error, what was done to it

    @property
    def best_known(self) -> str:
        """What the bars say, in a sentence."""
        name, error, _ = self.worst[0]
        return f"error of {len(self.layers)} layers; the largest is {error} at {name}"


def layer_errors(report: Mapping[str, Any]) -> list[LayerErrors]:
    """Return the errors of each step whose journal has them."""
    found = []
    for step in mappings(report.get("steps")):
        entries = [
            entry for entry in mappings(step.get("journal"))
            if "changed" in entry and (error := number(entry.get("error"))) is not None and math.isfinite(error)
        ][:MOST_LAYERS]  # fmt: skip
        if entries:
            found.append(_layer_errors(str(step.get("name")), entries))
    return found


def _layer_errors(step: str, entries: list[Mapping[str, Any]]) -> LayerErrors:
    sizes = [float(entry["error"]) for entry in entries]
    axis = scale([0.0, *sizes], pad=0.0)
    layers = [
        (str(entry["changed"]), digits(size), max(0.0, axis.at(size)))
        for entry, size in zip(entries, sizes, strict=True)
    ]
    order = sorted(range(len(entries)), key=lambda index: -sizes[index])[:WORST_LAYERS]
    worst = [(layers[index][0], layers[index][1], str(entries[index].get("how", ""))) for index in order]
    return LayerErrors(step, axis, tuple(layers), tuple(worst))


@dataclass(frozen=True)
class Check:
    """One check of a step's promise."""

    step: str
    name: str
    passed: bool
    measured: str
    bound: str
    detail: str


def checks(report: Mapping[str, Any]) -> list[Check]:
    """Return every check of every step, failed ones first."""
    found = [
        Check(
            step=str(step.get("name")),
            name=str(check.get("name")),
            passed=bool(check.get("passed")),
            measured=compact(check.get("measured")),
            bound=compact(check.get("bound")),
            detail=str(check.get("detail", "")),
        )
        for step in mappings(report.get("steps"))
        for check in mappings(step.get("checks"))
    ]
    return sorted(found, key=lambda check: check.passed)


@dataclass(frozen=True)
class Remark:
    """One thing that was skipped or is worth knowing: where, what, why."""

    where: str
    what: str
    why: str


def remarks(report: Mapping[str, Any]) -> list[Remark]:
    """Return what was skipped and why: places in a step, trials, parts of the recipe."""
    found = []
    for step in mappings(report.get("steps")):
        found += _skipped(step)
        found += [
            Remark(str(step.get("name")), "", str(entry["note"]))
            for entry in mappings(step.get("journal"))
            if "note" in entry
        ]
    found += _lost_trials(report)
    for note in mappings(report.get("notes")):
        if note.get("kind") in KINDS:
            found.append(Remark(str(note.get("path")), KINDS[str(note["kind"])], str(note.get("text", ""))))
    return found


def _lost_trials(report: Mapping[str, Any]) -> list[Remark]:
    """Return the trials that were dropped or failed, those with one reason together."""
    numbers: dict[tuple[str, str], list[str]] = {}
    for trial in mappings(report.get("trials")):
        if (fate := fate_of(trial)) in {"dropped", "failed"}:
            numbers.setdefault((FATES[fate], str(trial.get("why", ""))), []).append(str(trial.get("number")))
    return [
        Remark(f"trial{'s' if len(names) > 1 else ''} {', '.join(names)}", fate, why)
        for (fate, why), names in numbers.items()
    ]


def _skipped(step: Mapping[str, Any]) -> list[Remark]:
    """Return the places that a step left alone, those with one reason together."""
    sites: dict[str, list[str]] = {}
    for entry in mappings(step.get("journal")):
        if "skipped" in entry:
            sites.setdefault(str(entry.get("why", "")), []).append(str(entry["skipped"]))
    found = []
    for why, names in sites.items():
        more = f" and {len(names) - MOST_SITES} more" if len(names) > MOST_SITES else ""
        found.append(Remark(str(step.get("name")), f"skipped {', '.join(names[:MOST_SITES])}{more}", why))
    return found


def work_done(report: Mapping[str, Any]) -> str:
    """Return the time of a run and of the search in it."""
    seconds = number(report.get("seconds")) or 0.0
    steps = mappings(report.get("steps"))
    cached = sum(bool(step.get("cached")) for step in steps)
    told = f"This run took {duration(seconds)}"
    return f"{told}; {cached} of {len(steps)} steps were in the store." if cached else f"{told}."
