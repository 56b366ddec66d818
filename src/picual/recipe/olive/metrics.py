"""`evaluators`: the metrics that say the same here; what has no equal is named and kept for later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.engine import Engine
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.schema import MetricSpec

_LOG: Reason = ("ignored", "the report holds examples of what the model answered")
_GOALS: dict[str, Reason] = {
    "priority": ("later", "objectives come with search"),
    "priority_rank": ("later", "objectives come with search"),
    "is_first_priority": ("later", "objectives come with search"),
    "goal": ("later", "constraints come with search"),
    "higher_is_better": ("mapped", "a metric knows which way is better"),
    "backend": ("mapped", "Picual measures it by itself"),
    "metric_config": ("ignored", "this metric has nothing to set"),
    "sample_log_num": _LOG,
    "sample_log_dir": _LOG,
}
_FORWARD = "times one batch; `metrics: {latency: {}}` times the tokens that a user waits for"
_UNLIKE = {
    "latency": _FORWARD,
    "throughput": _FORWARD,
    "accuracy": "compares labels; `metrics: {accuracy: {data: ..., expect: ...}}` compares answers",
    "custom": "code of the user's own is never run",
}


def read_metrics(context: Context, top: Reader, sets: DataSets, engine: Engine) -> tuple[MetricSpec, ...]:
    """Return the metrics of the evaluator that the engine names.

    Raises:
        BadValue: `evaluators` is no mapping.
    """
    ledger = context.ledger
    found = top.given("evaluators")
    if found is not None and not isinstance(found.value, dict):
        raise ledger.wrong_shape(found.path, "a mapping of names to evaluators")
    named = (
        {} if found is None else {name: Found((*found.path, name), value) for name, value in found.value.items()}
    )
    if found is not None:
        ledger.opened(found.path)
    chosen = _chosen(context, engine.evaluator, named)
    for evaluator in named.values():
        if evaluator is not chosen:
            ledger.note(evaluator.path, "ignored", "no `evaluator` of the engine names it")
    return () if chosen is None else _metrics(context, chosen, sets)


def _chosen(context: Context, given: Found | None, named: Mapping[str, Found]) -> Found | None:
    if given is None:
        return None
    if isinstance(given.value, Mapping):
        return given
    if isinstance(given.value, str) and given.value in named:
        context.ledger.mapped(given.path, "its metrics become `metrics`")
        return named[given.value]
    context.ledger.note(given.path, "ignored", f"there is no evaluator `{given.value}`")
    return None


def _metrics(context: Context, found: Found, sets: DataSets) -> tuple[MetricSpec, ...]:
    ledger = context.ledger
    if not isinstance(found.value, Mapping):
        ledger.problem(found.path, "an evaluator must be a mapping")
        return ()
    reader = object_reader(ledger, found, nested="type_args")
    kind = reader.find_type()
    if kind is not None and kind.value is not None and not _is_own(word(kind.value)):
        ledger.note(found.path, "later", f"evaluations by `{kind.value}` are not supported in this version")
        return ()
    reader.drop_all({
        "type": ("mapped", "the kind of model says how it is run"),
        "name": ("ignored", "an evaluator's own name counts for nothing"),
        "target": ("ignored", "the recipe has one target"),
        "user_script": ("later", "code of the user's own is never run"),
        "script_dir": ("later", "code of the user's own is never run"),
    })  # fmt: skip
    entries = reader.given("metrics")
    if entries is None:
        return ()
    if not isinstance(entries.value, list):
        ledger.problem(entries.path, "`metrics` of an evaluator must be a list")
        return ()
    ledger.opened(entries.path)
    specs: list[MetricSpec] = []
    for index, value in enumerate(entries.value):
        path: Path_ = (*entries.path, index)
        if isinstance(value, Mapping):
            specs += _metric(context, Found(path, value), sets, taken={spec.name for spec in specs})
        else:
            ledger.note(entries.path, "later", "a metric by its name alone is not supported in this version")
    return tuple(specs)


def _is_own(kind: str) -> bool:
    return kind in {"onnxevaluator", "pytorchevaluator", "openvinoevaluator", "qnnevaluator"}


def _metric(context: Context, found: Found, sets: DataSets, *, taken: set[str]) -> list[MetricSpec]:
    """Return the metric, where we measure the same; else say of all of it why not."""
    reader = object_reader(context.ledger, found, nested=None)
    given = reader.find_type()
    kind = "" if given is None else word(given.value)
    ours, fields = _equal(reader, kind, sets)
    if ours is None or given is None:
        text = _UNLIKE.get(
            kind, f"`{kind}` is not supported in this version" if kind else "a metric without `type`"
        )
        context.ledger.note(found.path, "later", text)
        return []
    name = reader.text("name", to=f"metrics.{ours}") or ours
    name = name if name not in taken else f"{name}_{found.path[-1]}"
    context.ledger.mapped(given.path, f"metrics.{name}")
    for layer in _sub_types(context, reader):
        layer.drop("name", "mapped", f"becomes `metrics.{name}`")
        layer.drop_all(_GOALS)
    reader.drop_all(_GOALS)
    reader.drop("sub_type", "mapped", f"becomes `metrics.{name}`")
    reader.drop("user_config", "ignored", "Picual measures it by itself")
    reader.drop("data_config", "ignored", "this metric needs no data")
    return [MetricSpec(name=name, type=ours, fields=fields, place=context.ledger.place(found.path))]


def _equal(reader: Reader, kind: str, sets: DataSets) -> tuple[str | None, dict[str, Any]]:
    if kind == "size_on_disk":
        return "size", {}
    data = reader.find("data_config")
    only_perplexity = kind == "accuracy" and _names(reader) == {"perplexity"}
    if only_perplexity and data is not None and isinstance(data.value, str) and data.value in sets.configs:
        reader.ledger.mapped(data.path, "metrics.perplexity.data")
        return "perplexity", {"data": data.value}
    return None, {}


def _names(reader: Reader) -> set[str]:
    found = reader.find("sub_types")
    if found is None:
        single = reader.find("sub_type")
        return set() if single is None else {word(single.value)}
    entries = found.value if isinstance(found.value, list) else []
    return {word(entry.get("name")) for entry in entries if isinstance(entry, Mapping)}


def _sub_types(context: Context, reader: Reader) -> list[Reader]:
    found = reader.given("sub_types")
    if found is None or not isinstance(found.value, list):
        return []
    context.ledger.opened(found.path)
    return [
        object_reader(context.ledger, Found((*found.path, index), entry), nested=None)
        for index, entry in enumerate(found.value)
        if isinstance(entry, Mapping)
    ]
