"""Olive's `custom` metric: a function of the user's own becomes the metric `code`, which needs `--trust`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.measured import Measured
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found

FUNCTIONS = ("evaluate_func", "metric_func")
_ASKS: Reason = ("ignored", "the function is handed a model of Picual's: it reads and asks what it likes")
_UNUSED: dict[str, Reason] = dict.fromkeys(
    ("dataloader_func", "dataloader_func_kwargs", "data_config", "data_dir", "batch_size", "post_processing_func"),
    _ASKS,
)


def read_code(metric: Measured) -> None:
    """Read a custom metric."""
    reader = metric.reader
    function = reader.given(*FUNCTIONS)
    script = reader.given("user_script")
    if function is None or not isinstance(function.value, str):
        _miss(metric, "it names no function: `evaluate_func` or `metric_func`")
        return
    if script is None or not isinstance(script.value, str):
        _miss(metric, f"no `user_script` holds `{function.value}`")
        return
    fields: dict[str, Any] = {"code": _file(metric, script), "function": function.value}
    if options := _options(metric, function):
        fields["options"] = options
    name = metric.spec("code", fields)
    metric.context.ledger.mapped(script.path, f"becomes `metrics.{name}.code`, run only with `--trust`")
    _say_function(metric, function, name)
    reader.drop_all(_UNUSED)
    for place, sub_type in enumerate(metric.wanted):
        higher = is_higher_better(sub_type.reader, metric.kind, sub_type.name, metric.name)
        metric.numbers[place] = Number(f"{name}.{sub_type.title}" if sub_type.title else name, higher)


def _miss(metric: Measured, why: str) -> None:
    metric.missing = dict.fromkeys(range(len(metric.wanted)), why)


def _file(metric: Measured, script: Found) -> str:
    """Return the file of the function, absolute, as the recipe's other files are."""
    folder = metric.reader.text("script_dir", to=f"metrics.{metric.name}.code") or ""
    file = Path(folder) / str(script.value)
    return str(metric.context.folder / file)


def _options(metric: Measured, function: Found) -> dict[str, Any]:
    """Return the arguments that a function is given by name, in the new form and the old one."""
    key = str(function.path[-1])
    given = metric.reader.given(f"{key}_kwargs")
    if given is not None and isinstance(given.value, Mapping):
        metric.context.ledger.mapped(given.path, f"metrics.{metric.name}.options")
        return dict(given.value)
    old = metric.reader.child("func_kwargs", nested=None)
    inner = None if old is None else old.given(key)
    if inner is None or not isinstance(inner.value, Mapping):
        return {}
    metric.context.ledger.mapped(inner.path, f"metrics.{metric.name}.options")
    return dict(inner.value)


def _say_function(metric: Measured, function: Found, name: str) -> None:
    took = (
        "outputs and targets"
        if str(function.path[-1]) == FUNCTIONS[1]
        else "a model, a device and providers of Olive's"
    )
    text = f"becomes `metrics.{name}.function`; in Olive it took {took}, here what `picual metrics show code` says"
    metric.context.ledger.note(function.path, "replaced", text)
    for other in FUNCTIONS:
        metric.reader.drop(other, "ignored", f"`{function.path[-1]}` is the one that is called")
