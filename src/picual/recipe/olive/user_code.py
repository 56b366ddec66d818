"""Olive's `custom` metric: a function of the user's own becomes the metric `code`, which needs `--trust`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.measured import Measured
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found

FUNCTIONS = ("evaluate_func", "metric_func")
_ASKS: Reason = ("ignored", "the function is handed the model and the rows: it asks what it likes")
_UNUSED: dict[str, Reason] = {
    **dict.fromkeys(
        ("dataloader_func", "dataloader_func_kwargs", "data_config", "data_dir", "batch_size", "func_kwargs"),
        _ASKS,
    ),
    "post_processing_func": ("ignored", "the function is handed the model, not its outputs"),
    "script_dir": ("ignored", "the code may import what lies beside its file"),
}


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
    ways = [is_higher_better(one.reader, metric.kind, one.name, metric.name) for one in metric.wanted]
    name = metric.spec("code", _fields(metric, function, script, ways))
    metric.context.ledger.mapped(script.path, f"becomes `metrics.{name}.code`, run only with `--trust`")
    _say_function(metric, function, name)
    metric.drop_all(_UNUSED)
    for place, sub_type in enumerate(metric.wanted):
        # The first is the metric's main number, which is known also when the function returns just one.
        to = f"{name}.{sub_type.title}" if place else name
        metric.numbers[place] = Number(to, ways[place])


def _fields(metric: Measured, function: Found, script: Found, ways: list[bool]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "code": str(metric.context.folder / str(script.value)), "function": function.value,
    }  # fmt: skip
    if options := _options(metric, function):
        fields["options"] = options
    name = metric.data()
    if metric.text(name) is not None:
        fields["data"] = name
        metric.say("data_config", "mapped", f"becomes `metrics.{metric.name}.data`: the rows, as they are")
    if metric.wanted and metric.wanted[0].title:
        fields["number"] = metric.wanted[0].title
    if ways and not ways[0]:
        fields["better"] = "lower"
    return fields


def _miss(metric: Measured, why: str) -> None:
    metric.missing = dict.fromkeys(range(len(metric.wanted)), why)


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
    key = str(function.path[-1])
    took = "outputs and targets" if key == FUNCTIONS[1] else "a model of Olive's, a device and providers"
    text = f"becomes `metrics.{name}.function`; it is called with the model, the rows and the options (in Olive: "
    metric.context.ledger.note(function.path, "replaced", f"{text}{took})")
    for other in FUNCTIONS:
        metric.reader.drop(other, "ignored", f"`{key}` is the one that is called")
