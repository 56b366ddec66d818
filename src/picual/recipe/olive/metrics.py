"""`evaluators`: the metrics that measure the same here; what has no equal is named and kept for later."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from picual.errors import did_you_mean, nearest
from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.engine import Engine
from picual.recipe.olive.goals import Goals
from picual.recipe.olive.harness import read_harness
from picual.recipe.olive.measured import UNUSED, Measured, metric_reader, read_size
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.scores import HUGGING_FACE, SCORES, read_scores
from picual.recipe.olive.sub_types import SubType, sub_types
from picual.recipe.olive.timings import NUMBERS, read_timing
from picual.recipe.olive.user_code import read_code
from picual.recipe.schema import MetricSpec

_KINDS: dict[str, Callable[[Measured], None]] = {
    "size_on_disk": read_size,
    "latency": read_timing,
    "throughput": read_timing,
    "accuracy": read_scores,
    "custom": read_code,
}
_SUB_TYPES: dict[str, tuple[str, ...]] = {"latency": NUMBERS, "throughput": NUMBERS, "accuracy": SCORES}
_LEFT: dict[str, Reason] = {
    "backend": ("mapped", "Picual measures it by itself"),
    "higher_is_better": ("mapped", "a metric knows which way is better"),
    "data_config": ("ignored", "this metric needs no data"),
}


def read_metrics(
    context: Context, top: Reader, sets: DataSets, engine: Engine
) -> tuple[tuple[MetricSpec, ...], Goals]:
    """Return the metrics of the evaluator that the engine names, and its goals.

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
    goals = Goals(context.ledger, is_search=engine.strategy.on, has_evaluator=chosen is not None)
    return (() if chosen is None else tuple(_metrics(context, chosen, sets, goals))), goals


def _chosen(context: Context, given: Found | None, named: Mapping[str, Found]) -> Found | None:
    if given is None:
        return None
    if isinstance(given.value, Mapping):
        return given
    if isinstance(given.value, str) and given.value in named:
        context.ledger.mapped(given.path, "its metrics become `metrics`")
        return named[given.value]
    context.ledger.problem(
        given.path, f"there is no evaluator `{given.value}`", nearest(str(given.value), list(named))
    )
    return None


def _metrics(context: Context, found: Found, sets: DataSets, goals: Goals) -> list[MetricSpec]:
    ledger = context.ledger
    if not isinstance(found.value, Mapping):
        ledger.problem(found.path, "an evaluator must be a mapping")
        return []
    reader = object_reader(ledger, found, nested="type_args")
    kind = reader.find_type()
    is_harness = kind is not None and word(kind.value) == "lmevaluator"
    if kind is not None and kind.value is not None and not is_harness and not _is_own(word(kind.value)):
        ledger.note(found.path, "later", f"evaluations by `{kind.value}` are not supported in this version")
        return []
    specs = read_harness(context, reader, found) if is_harness else []
    code = "the metrics say themselves where their code is"
    reader.drop_all({
        "type": ("mapped", "becomes `metrics.lm-eval`" if is_harness else "the kind of model says how it is run"),
        "name": ("ignored", "an evaluator's own name counts for nothing"),
        "target": ("ignored", "the recipe has one target"),
        "user_script": ("ignored", code),
        "script_dir": ("ignored", code),
    })  # fmt: skip
    entries = reader.given("metrics")
    if entries is None:
        return specs
    if not isinstance(entries.value, list):
        ledger.problem(entries.path, "`metrics` of an evaluator must be a list")
        return specs
    ledger.opened(entries.path)
    for index, value in enumerate(entries.value):
        path: Path_ = (*entries.path, index)
        if isinstance(value, Mapping):
            specs += _metric(context, Found(path, value), sets, specs, goals)
        else:
            ledger.note(entries.path, "later", "a metric by its name alone is not supported in this version")
    return specs


def _is_own(kind: str) -> bool:
    return kind in {"onnxevaluator", "pytorchevaluator", "openvinoevaluator", "qnnevaluator"}


def _metric(
    context: Context, found: Found, sets: DataSets, others: list[MetricSpec], goals: Goals
) -> list[MetricSpec]:
    """Return what measures the same as a metric; of each number that nothing measures, say why not."""
    ledger = context.ledger
    reader = metric_reader(context, found)
    given = reader.find_type()
    kind = "" if given is None else word(given.value)
    wanted = sub_types(context, reader)
    metric = Measured(context, sets, reader, found, _name(reader, kind), kind, wanted, others)
    metric.require_data()
    if kind in _KINDS:
        _KINDS[kind](metric)
    else:
        why = f"`{kind}` is not supported in this version" if kind else "a metric without `type`"
        if given is not None and (hint := did_you_mean(kind, list(_KINDS))):
            ledger.problem(given.path, f"there is no type of metric `{given.value}`", hint)
        metric.missing = dict.fromkeys(range(len(wanted)), why)
    if not metric.numbers:
        ledger.note(
            found.path, "later", "; ".join(dict.fromkeys(metric.missing.values())) or "it asks for no number"
        )
    else:
        _say(metric)
    for place, sub_type in enumerate(wanted):
        if place in metric.numbers:
            goals.add(sub_type, metric.numbers[place])
        else:
            goals.lose(sub_type, metric.missing[place])
            _misspelt(metric, sub_type)
    return metric.specs


def _misspelt(metric: Measured, sub_type: SubType) -> None:
    """Take a name that is like one of Olive's, and none of them, for a slip."""
    known = _SUB_TYPES.get(metric.kind, ())
    backend = metric.reader.find("backend")
    is_open = backend is not None and word(backend.value) == HUGGING_FACE  # a library with names of its own
    if sub_type.name in known or is_open:
        return
    if hint := did_you_mean(sub_type.name, known):
        what = f"there is no `{sub_type.title}` among the sub types of `{metric.kind}`"
        metric.context.ledger.problem(sub_type.path, what, hint)


def _name(reader: Reader, kind: str) -> str:
    """Return the name of a metric, without dots: after a dot stands the number that is meant."""
    found = reader.given("name")
    if found is None:
        return kind
    if isinstance(found.value, bool) or not isinstance(found.value, str | int | float):
        reader.wrong_type(found, "text")
        return kind
    return str(found.value).replace(".", "_").strip() or kind


def _say(metric: Measured) -> None:
    """Note what became of the names, and why other keys have no effect."""
    ledger = metric.context.ledger
    names = list(dict.fromkeys(number.measurement.split(".")[0] for number in metric.numbers.values()))
    becomes = "becomes " + " and ".join(f"`metrics.{name}`" for name in names)
    for key in ("name", "type"):
        metric.reader.drop(key, "mapped", becomes, again=True)
    for place, sub_type in enumerate(metric.wanted):
        if place in metric.numbers:
            if sub_type.title:
                ledger.mapped(sub_type.path, f"the number `{metric.numbers[place].measurement}`")
            sub_type.reader.drop_all(_LEFT)
            _nothing_to_set(sub_type.reader)
        else:
            ledger.note(sub_type.path, "later", metric.missing[place])
            path = sub_type.reader.layers[0].path
            if path != metric.found.path:
                ledger.note(path, "later", metric.missing[place])
    metric.drop_all({**UNUSED, **_LEFT})
    _nothing_to_set(metric.reader)


def _nothing_to_set(reader: Reader) -> None:
    found = reader.find("metric_config")
    if found is not None and not reader.ledger.is_opened(found.path):
        reader.drop("metric_config", "ignored", "this metric has nothing to set")
