"""The model before and after: its numbers side by side, its classes and its wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from picual.report.numbers import CIRCUMSTANCES, MISSING, STAGES, Measure, compact, goals, measures_in
from picual.report.reading import is_number, mapping, mappings, number
from picual.search.goals import Measurement
from picual.search.ranking import is_noise

TITLES = {"baseline": "baseline", "unquantized": "unquantized", "best": "best", "data": "data alone"}
SHADES = 5  # of a confusion matrix
MOST_LABELS = 40
MOST_EXAMPLES = 5
MOST_LETTERS = 300


@dataclass(frozen=True)
class Cell:
    """One number of one model."""

    text: str
    interval: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Change:
    """How the best model stands to another in one number."""

    text: str
    judgement: Literal["better", "worse", "within the noise", ""]


@dataclass(frozen=True)
class Row:
    """One number of all models."""

    measure: Measure
    cells: tuple[Cell, ...]
    changes: tuple[Change, ...]
    is_goal: bool
    best: float | None
    best_interval: str


@dataclass(frozen=True)
class Comparison:
    """The table of all models: first what the run is about, then the rest."""

    stages: tuple[str, ...]
    references: tuple[str, ...]  # stages that the best is compared with
    rows: tuple[Row, ...]
    more: tuple[Row, ...]
    circumstances: tuple[str, ...]  # how the numbers were taken


def titles(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what each model is called; without a best one, its numbers are those of the closest candidate."""
    search = mapping(report.get("search"))
    is_closest = search.get("best") is None and search.get("closest") is not None
    return {**TITLES, "best": "closest"} if is_closest else TITLES


def comparison(report: Mapping[str, Any]) -> Comparison:
    """Return the models of a report side by side."""
    values = {stage: mapping(report.get(stage)) for stage in STAGES}
    stages = [stage for stage in STAGES if values[stage]]
    references = [stage for stage in ("baseline", "unquantized") if values[stage] and values["best"]]
    asked = goals(report)
    rows = [
        _row(measure, values, stages, references, (measure.metric, measure.key) in asked)
        for measure in measures_in(report, [values[stage] for stage in stages])
    ]
    first = [row for row in rows if row.measure.is_main or row.is_goal]
    first.sort(key=lambda row: _place(row.measure, asked))
    return Comparison(
        stages=tuple(stages),
        references=tuple(references),
        rows=tuple(first),
        more=tuple(row for row in rows if row not in first),
        circumstances=tuple(_circumstances(values["best"] or values["baseline"])),
    )


def _place(measure: Measure, asked: Sequence[tuple[str, str]]) -> int:
    pair = (measure.metric, measure.key)
    return asked.index(pair) if pair in asked else len(asked)


def _row(
    measure: Measure, values: Mapping[str, Mapping[str, Any]], stages: Sequence[str], references: Sequence[str],
    is_goal: bool,
) -> Row:  # fmt: skip
    cells = []
    for stage in stages:
        value = measure.of(values[stage])
        interval = measure.interval_text(measure.interval(values[stage])) if value is not None else ""
        cells.append(Cell(measure.text(value), interval, value))
    best = measure.of(values["best"])
    changes = []
    for stage in references:
        reference = measure.of(values[stage])
        judged = measure.judgement(best, reference)
        measurement = Measurement(measure.metric, measure.key)
        noise = judged and is_noise(measurement, values["best"], values[stage])
        changes.append(Change(measure.difference(best, reference), "within the noise" if noise else judged))
    interval = measure.interval_text(measure.interval(values["best"])) if best is not None else ""
    return Row(measure, tuple(cells), tuple(changes), is_goal, best, interval)


def _circumstances(stage: Mapping[str, Any]) -> list[str]:
    told = []
    for metric, values in stage.items():
        items = [
            f"{key} {compact(value)}"
            for key, value in mapping(values).items()
            if key in CIRCUMSTANCES - {"low", "high"} and (is_number(value) or isinstance(value, str))
        ]
        if items:
            told.append(f"{metric}: {', '.join(items)}")
    return told


@dataclass(frozen=True)
class Confusion:
    """How often each class was answered for each: counts with a shade by their share of the row."""

    metric: str
    stage: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]  # expected, (count, shade)...


@dataclass(frozen=True)
class ClassTable:
    """Numbers by class."""

    metric: str
    stage: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def confusions(report: Mapping[str, Any]) -> list[Confusion]:
    """Return the confusion matrix of each metric that has one, of the last model that has it."""
    found = [
        _confusion(metric, titles(report)[stage], mapping(values["confusion"]))
        for metric, stage, values in _last_with(report, "confusion")
    ]
    return [one for one in found if one is not None]


def _confusion(metric: str, stage: str, matrix: Mapping[str, Any]) -> Confusion | None:
    labels, counts = matrix.get("labels"), matrix.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or not 0 < len(labels) <= MOST_LABELS:
        return None
    table = [[int(count) if is_number(count) else 0 for count in row] for row in counts if isinstance(row, list)]
    width = max((len(row) for row in table), default=0)
    columns = [str(label) for label in labels] + ["other"] * (width - len(labels))
    rows = [
        (str(label), tuple((count, _shade(count, sum(row))) for count in row))
        for label, row in zip(labels, table, strict=False)
    ]
    return Confusion(metric, stage, tuple(columns[:width]), tuple(rows))


def _shade(count: int, total: int) -> int:
    return 0 if count == 0 or total == 0 else min(SHADES, 1 + int(SHADES * count / total))


def class_tables(report: Mapping[str, Any]) -> list[ClassTable]:
    """Return the numbers by class of each metric that has them."""
    return [
        _class_table(report, metric, stage, mapping(values["per_class"]))
        for metric, stage, values in _last_with(report, "per_class")
        if 0 < len(mapping(values["per_class"])) <= MOST_LABELS
    ]


def _class_table(report: Mapping[str, Any], metric: str, stage: str, classes: Mapping[str, Any]) -> ClassTable:
    if not all(isinstance(value, Mapping) for value in classes.values()):  # one share a class
        plain = tuple((str(label), (_share(number(value)),)) for label, value in classes.items())
        return ClassTable(metric, titles(report)[stage], ("right (%)",), plain)
    others = [
        (name, mapping(mapping(mapping(report.get(name)).get(metric)).get("per_class")))
        for name in ("baseline", "unquantized")
        if name != stage
    ]
    others = [(name, table) for name, table in others if table]
    columns = ["rows", "precision (%)", "recall (%)", "F1 (%)", *(f"F1 of {name} (%)" for name, _ in others)]
    rows = []
    for label, values in classes.items():
        support = number(values.get("support"))
        shares = [number(values.get(key)) for key in ("precision", "recall", "f1")]
        shares += [number(mapping(table.get(label)).get("f1")) for _, table in others]
        rows.append((str(label), (MISSING if support is None else f"{support:.0f}", *map(_share, shares))))
    return ClassTable(metric, titles(report)[stage], tuple(columns), tuple(rows))


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def examples(report: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Return some wrong answers of each metric that kept them, as (metric, stage, rows)."""
    found = []
    for metric, stage, values in _last_with(report, "examples"):
        rows = [
            {key: _cut(str(row.get(key, ""))) for key in ("prompt", "expected", "answer")}
            for row in mappings(values["examples"])[:MOST_EXAMPLES]
        ]
        if rows:
            found.append((metric, titles(report)[stage], rows))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else "… " + text[-MOST_LETTERS:]


def _last_with(report: Mapping[str, Any], key: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (metric, stage, values) of each metric that holds ``key`` for some model, the best model first."""
    found: dict[str, tuple[str, str, Mapping[str, Any]]] = {}
    for stage in ("best", "unquantized", "baseline", "data"):
        for metric, values in mapping(report.get(stage)).items():
            if mapping(values).get(key) and metric not in found:
                found[metric] = (metric, stage, values)
    return list(found.values())
