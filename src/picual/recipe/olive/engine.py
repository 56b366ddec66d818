"""`engine`, and its keys at the top level: folders, host and target, search, log, and what has no counterpart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader
from picual.recipe.olive.strategy import Strategy, read_strategy

LogLevel = Literal["debug", "info", "warning", "error"]
_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error", "error")
_CACHE: Reason = ("ignored", "the store knows by itself what is still valid; `picual store prune` makes room")
_RUNTIME_LOG: Reason = ("ignored", "the runtime's own messages are in the log of their step")
_COMMENT: Reason = ("ignored", "a remark for readers")
UNUSED: dict[str, Reason] = {
    "$schema": ("ignored", "names the schema of Olive's own configs"),
    "comment": _COMMENT,
    "description": _COMMENT,
    "note": _COMMENT,
    "workflow_id": ("ignored", "a run is known by its recipe; the store by its contents"),
    "evaluation_only": ("ignored", "a recipe without `passes` is an evaluation"),
    "clean_cache": _CACHE,
    "clean_evaluation_cache": _CACHE,
    "cache_enabled": _CACHE,
    "cache_config": ("later", "a shared store is not supported in this version"),
    "cloud_cache_config": ("later", "a shared store is not supported in this version"),
    "enable_shared_cache": ("later", "a shared store is not supported in this version"),
    "plot_pareto_frontier": ("mapped", "the report draws it of every search"),
    "no_artifacts": ("ignored", "the output folder is always the same: model, report, manifest, run"),
    "output_name": ("ignored", "the output folder's files have fixed names"),
    "ort_log_severity_level": _RUNTIME_LOG,
    "ort_py_log_severity_level": _RUNTIME_LOG,
    "log_to_file": ("ignored", "every step has its log in the run's folder"),
    "verbose": ("ignored", "`log_severity_level` says how much is told"),
    "auto_optimizer_config": ("later", "Picual does not choose passes from a config by itself: name them"),
    "builds": ("later", "several results from one config are not supported in this version: run one recipe each"),
    "max_concurrent_builds": ("later", "several results from one config are not supported in this version"),
    "metrics": ("ignored", "metrics stand under `evaluators`"),
    "data_container": ("ignored", "data sets stand under `data_configs`"),
}


@dataclass
class Engine:
    """What the engine of a config says, the parts that name others not yet looked up."""

    output: str = "out"
    store: str | None = None
    log_level: LogLevel = "info"
    strategy: Strategy = field(default_factory=Strategy)
    host: Found | None = None
    target: Found | None = None
    whole: Found | None = None  # `workflow_host`
    evaluator: Found | None = None
    providers: Found | None = None
    flows: Found | None = None
    where: dict[str, Path_] = field(default_factory=dict)


def engine_reader(context: Context, top: Reader) -> Reader:
    """Return the reader of the engine's keys, nested under `engine` and flat at the top.

    Raises:
        BadValue: `engine` is no mapping.
    """
    found = top.given("engine")
    if found is None:
        return top
    if not isinstance(found.value, dict):
        raise context.ledger.wrong_shape(found.path, "a mapping")
    return Reader(context.ledger, [found, *top.layers])


def read_engine(context: Context, reader: Reader) -> Engine:
    """Return what the engine of a config says."""
    engine = Engine()
    output = reader.text("output_dir", to="output")
    if output is not None:
        engine.output = output
        _at(engine, "output", reader.find("output_dir"))
    else:
        text = "left out: `out` beside the config (Olive: the current folder)"
        given = reader.find("output_dir")
        if given is None or given.value is None:
            context.ledger.note(("output_dir",) if given is None else given.path, "defaulted", text)
    engine.store = _store(engine, reader)
    engine.log_level = _log_level(engine, reader)
    engine.strategy = read_strategy(reader)
    engine.host = reader.given("host")
    engine.target = reader.given("target")
    engine.whole = reader.given("workflow_host")
    engine.evaluator = reader.given("evaluator")
    engine.providers = reader.given("execution_providers")
    engine.flows = reader.given("pass_flows")
    _at(engine, "host", engine.host)
    _at(engine, "target", engine.target)
    _baseline(reader)
    reader.drop_all(UNUSED)
    return engine


def _baseline(reader: Reader) -> None:
    found = reader.given("evaluate_input_model")
    if found is not None:
        text = "the input model is always measured too: the report's `baseline`"
        reader.ledger.note(found.path, "mapped" if found.value is True else "ignored", text)


def _at(engine: Engine, key: str, found: Found | None) -> None:
    if found is not None:
        engine.where[key] = found.path


def _store(engine: Engine, reader: Reader) -> str | None:
    found = reader.given("cache_dir")
    if found is not None and isinstance(found.value, list) and found.value and isinstance(found.value[0], str):
        text = "its first folder becomes `store`; a shared store is not supported in this version"
        reader.ledger.note(found.path, "mapped", text)
        _at(engine, "store", found)
        return found.value[0]
    store = reader.text("cache_dir", to="store")
    if store is not None:
        _at(engine, "store", found)
    return store


def _log_level(engine: Engine, reader: Reader) -> LogLevel:
    level = reader.whole("log_severity_level", to="log")
    if level is None:
        return "info"
    found = reader.find("log_severity_level")
    if not 0 <= level < len(_LEVELS):
        assert found is not None
        reader.ledger.problem(
            found.path, f"`log_severity_level` is {level}; it must be 0 to 4", "0 tells the most"
        )
        return "info"
    _at(engine, "log", found)
    return _LEVELS[level]
