"""What the numbers of a report mean: their unit, which way is better, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from picual.report.reading import is_number, mapping, mappings, number

Better = Literal["higher", "lower", ""]
MISSING = "\u2013"  # an en dash
MINUS = "\u2212"  # a true one: as wide as a plus

Values = Mapping[str, Any]  # one metric's values by key

STAGES = ("baseline", "unquantized", "best", "data")
# Facts about how a number was taken: they are listed, never compared.
CIRCUMSTANCES = {
    "count", "correct", "low", "high", "threads", "prompt", "new", "repeats", "warm_up", "windows", "length",
    "positions", "tokens", "rows", "batch", "support", "seed",
}  # fmt: skip
SHARE = "%"  # kept as a share of 1, shown in percent
# Of keys that a report without `measures` may hold, in the order in which they stand for their metric.
KNOWN: dict[str, tuple[str, Better]] = {
    "accuracy": (SHARE, "higher"),
    "macro_f1": (SHARE, "higher"),
    "exact_match": (SHARE, "higher"),
    "kl": ("nats", "lower"),
    "top1": (SHARE, "higher"),
    "perplexity": ("", "lower"),
    "ms_per_token": ("ms", "lower"),
    "ttft_ms": ("ms", "lower"),
    "tokens_per_s": ("tokens/s", "higher"),
    "prefill_tokens_per_s": ("tokens/s", "higher"),
    "size_mb": ("MB", "lower"),
    "peak_rss_mb": ("MB", "lower"),
    "load_s": ("s", "lower"),
    "f1": (SHARE, "higher"),
    "precision": (SHARE, "higher"),
    "recall": (SHARE, "higher"),
}
ENDINGS: dict[str, tuple[str, Better]] = {
    "_ms": ("ms", "lower"), "_mb": ("MB", "lower"), "_per_s": ("/s", "higher"), "_s": ("s", "lower"),
}  # fmt: skip
UNITS = {"": "", "token/s": "tokens/s", "tokens/s": "tokens/s", "share": SHARE}


@dataclass(frozen=True)
class Measure:
    """One number of one metric: ``size.size_mb``."""

    metric: str
    key: str
    is_main: bool = True
    unit: str = ""
    better: Better = ""

    @property
    def name(self) -> str:
        """As a recipe writes it in full."""
        return f"{self.metric}.{self.key}"

    @property
    def label(self) -> str:
        """As a table's row is called: the metric alone where its main number is meant."""
        return self.metric if self.is_main else f"{self.metric} {self.key}"

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def factor(self) -> float:
        """What a value is multiplied by to be shown."""
        return 100.0 if self.unit == SHARE else 1.0

    def of(self, stage: Mapping[str, Values]) -> float | None:
        """Return the number among the values of a model, if it is one."""
        return as_number(stage.get(self.metric), self.key)

    def interval(self, stage: Mapping[str, Values]) -> tuple[float, float] | None:
        """Return the number's 95 % interval, if it has one."""
        values = mapping(stage.get(self.metric))
        found = mapping(values.get("intervals")).get(self.key)
        if found is None and self.key == "accuracy":
            found = [values.get("low"), values.get("high")]
        if not isinstance(found, list | tuple) or len(found) != 2 or not all(is_number(end) for end in found):
            return None
        return float(found[0]), float(found[1])

    def text(self, value: float | None, *, unit: bool = True) -> str:
        """Return a value as a reader wants it; a missing one is an en dash."""
        if value is None:
            return MISSING
        written = f"{100 * value:.1f}" if self.unit == SHARE else digits(value)
        return f"{written} {self.unit}" if unit and self.unit else written

    def interval_text(self, ends: tuple[float, float] | None) -> str:
        """Return an interval, or nothing."""
        return "" if ends is None else f"{self.text(ends[0], unit=False)} to {self.text(ends[1])}"

    def difference(self, value: float | None, reference: float | None) -> str:
        """Return how a value stands to a reference: points for shares, else percent or times, else the amount."""
        if value is None or reference is None or not (math.isfinite(value) and math.isfinite(reference)):
            return MISSING
        moved = value - reference
        if self.unit == SHARE:
            return "same" if abs(moved) < 5e-4 else f"{signed(100 * moved, '.1f')} points"
        if moved == 0:
            return "same"
        if reference <= 0 or value <= 0:
            return signed(moved, ".3g") + (f" {self.unit}" if self.unit else "")
        if value / reference >= 2:
            return f"{value / reference:.3g} times"
        return f"{signed(100 * moved / reference, '.1f')} %"

    def judgement(self, value: float | None, reference: float | None) -> Literal["better", "worse", ""]:
        """Say whether a value is better than a reference, where it is known which way that is."""
        if value is None or reference is None or not self.better or math.isnan(value) or math.isnan(reference):
            return ""
        if value == reference or self.difference(value, reference) == "same":
            return ""
        return "better" if (value > reference) == (self.better == "higher") else "worse"


def measure_of(report: Mapping[str, Any], metric: str, key: str) -> Measure:
    """Return what a report knows of a number."""
    said = mapping(mapping(report.get("measures")).get(metric))
    is_main = key == _main_key(report, metric)
    unit, better = KNOWN.get(key) or next(
        (facts for ending, facts in ENDINGS.items() if key.endswith(ending)), ("", "")
    )
    if said.get("key") == key:
        better = "higher" if said.get("higher_is_better") else "lower"
        unit = unit or UNITS.get(str(said.get("unit", "")), str(said.get("unit", "")))
    for goal in mappings(mapping(report.get("search")).get("objectives")):
        if (goal.get("metric"), goal.get("key")) == (metric, key):
            better = "higher" if goal.get("direction") == "maximize" else "lower"
    return Measure(metric, key, is_main, unit, better)


def measures_in(report: Mapping[str, Any], stages: Iterable[Mapping[str, Values]]) -> list[Measure]:
    """Return every comparable number of some models: the main ones first, in the order of the report."""
    pairs = dict.fromkeys(
        (metric, key)
        for stage in stages
        for metric, values in stage.items()
        for key in mapping(values)
        if key not in CIRCUMSTANCES and as_number(values, key) is not None
    )
    found = [measure_of(report, metric, key) for metric, key in pairs]
    return sorted(found, key=lambda measure: not measure.is_main)  # stable: otherwise as they came


def goals(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (metric, key) pairs that a run was judged by: objectives, then constraints."""
    search = mapping(report.get("search"))
    asked = [*mappings(search.get("objectives")), *mappings(report.get("constraints"))]
    return list(dict.fromkeys((str(goal.get("metric")), str(goal.get("key"))) for goal in asked))


def as_number(values: Any, key: str) -> float | None:
    """Return one number among a metric's values."""
    return number(mapping(values).get(key))


def digits(value: float) -> str:
    """Return a number with as many digits as a reader needs."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else signed(value, "")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    return (f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}").replace("-", MINUS)


def signed(value: float, form: str) -> str:
    """Return a number with its sign, a true minus among them."""
    return format(value, f"+{form}").replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return a duration: `0.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def compact(value: Any) -> str:
    """Return a setting on one line: a pass as `build-genai, precision int4`, a list with commas."""
    match value:
        case bool() | None:
            return {True: "yes", False: "no", None: "none"}[value]
        case float():
            return digits(value)
        case dict():
            items = [str(item) if key == "type" else f"{key} {compact(item)}" for key, item in value.items()]
            return ", ".join(items)
        case list() | tuple():
            return ", ".join(compact(item) for item in value)
    return str(value)


def _main_key(report: Mapping[str, Any], metric: str) -> str:
    said = mapping(mapping(report.get("measures")).get(metric)).get("key")
    if said:
        return str(said)
    everywhere = [mapping(mapping(report.get(stage)).get(metric)) for stage in STAGES]
    everywhere += [mapping(mapping(trial.get("metrics")).get(metric)) for trial in mappings(report.get("trials"))]
    for values in everywhere:
        numbers = [key for key in values if key not in CIRCUMSTANCES and as_number(values, key) is not None]
        if numbers:
            return next((key for key in KNOWN if key in numbers), numbers[0])
    return ""
