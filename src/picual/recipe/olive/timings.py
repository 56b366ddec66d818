"""Olive's `latency` and `throughput` as `batch-latency`: both are read from the same runs."""

from __future__ import annotations

from typing import Any

from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.measured import Measured
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import whole_number

NUMBERS = ("avg", "max", "min", "p50", "p75", "p90", "p95", "p99", "p999")
# Olive's setting -> our field, and what Olive takes when it is left out.
_RUNS = (("warmup_num", "warm_up", 10), ("repeat_test_num", "repeats", 20), ("sleep_num", "sleep", 0))
_MADE: Reason = ("replaced", "tokens at random take the place of inputs that the user's own code makes")
_CODE: dict[str, Reason] = dict.fromkeys(
    ("dataloader_func", "func_kwargs", "dataloader_func_kwargs", "data_dir", "user_script", "script_dir"), _MADE
)


def read_timing(metric: Measured) -> None:
    """Read a latency or a throughput."""
    name = metric.spec("batch-latency", _fields(metric))
    prefix, unit = ("throughput_", "") if metric.kind == "throughput" else ("", "ms")
    for place, sub_type in enumerate(metric.wanted):
        number = sub_type.name or NUMBERS[0]
        if number in NUMBERS:
            higher = is_higher_better(sub_type.reader, metric.kind, sub_type.name, metric.name)
            metric.numbers[place] = Number(f"{name}.{prefix}{number}", higher, unit)
        else:
            metric.missing[place] = f"`{number}` is not one of {', '.join(NUMBERS)}"
    metric.reader.drop_all(_CODE)


def _fields(metric: Measured) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    name = metric.data()
    if metric.text(name) is not None:
        fields["data"] = name
        metric.say("data_config", "mapped", f"becomes `metrics.{metric.name}.data`")
    else:
        metric.say(
            "data_config", "replaced", f"`{name}` holds no text that Picual reads: tokens at random are timed"
        )
    size = metric.sets.batches.get(name or "")
    given = metric.reader.whole("batch_size", to=f"metrics.{metric.name}.batch_size")
    if (size := given or size) is not None and size > 0:
        fields["batch_size"] = size
    return {**fields, **_runs(metric)}


def _runs(metric: Measured) -> dict[str, Any]:
    """Return how often is measured, as the first sub type says it: Olive reads no other."""
    fields: dict[str, Any] = {}
    configs = [config for sub_type in metric.wanted if (config := sub_type.config()) is not None]
    at: Path_ = metric.wanted[0].reader.layers[0].path if metric.wanted else metric.found.path
    for olive, ours, default in _RUNS:
        found = configs[0].given(olive) if configs else None
        value = whole_number(found.value) if found is not None else None
        if found is None:
            metric.context.ledger.note(
                (*at, "metric_config", olive), "defaulted", f"left out: {default}, as Olive does"
            )
        elif value is None or value < (ours == "repeats"):
            configs[0].wrong_type(found, "a whole number")
        else:
            metric.context.ledger.mapped(found.path, f"metrics.{metric.name}.{ours}")
        value = default if value is None else value
        if value or ours != "sleep":
            fields[ours] = value
    for number, config in enumerate(configs):
        for key in config.layers[0].value if number else ():
            config.drop(key, "ignored", "the first sub type says how all are measured")
        config.unknown([olive for olive, _, _ in _RUNS], "a timing", ())
    return fields
