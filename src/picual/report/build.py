"""A result and its plan become ``report.json``: plain values, from which everything else is made."""

from __future__ import annotations

import datetime as dt
from typing import Any

from picual import __version__, _lazy
from picual.engine.output import LOCKED
from picual.engine.results import RunResult, StepResult
from picual.plan import Plan
from picual.recipe import dump
from picual.report import searched

VERSION = 1


def build(result: RunResult, plan: Plan) -> dict[str, Any]:
    """Return ``report.json``. Its schema ships as ``picual schema report``."""
    values = result.metrics
    return {
        "version": VERSION,
        "verdict": result.verdict,
        "error": None if result.error is None else result.error.to_wire(),
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "recipe": plan.recipe.file,
        "recipe_text": dump.to_yaml(plan.open_recipe),
        "output": str(result.output),
        "model": str(result.output / "model") if result.placed else None,
        "registered": None if result.registered is None else vars(result.registered),
        "measures": _measures(plan),
        "baseline": _stage(values, "baseline"),
        "unquantized": _stage(values, "unquantized"),
        "best": _stage(values, "final" if plan.steps else "baseline"),
        "data": _stage(values, "data"),
        "search": searched.search(result),
        "trials": searched.trials(result),
        "steps": [_step(step) for step in result.steps],
        "constraints": searched.constraints(result),
        "notes": [{"path": note.path, "kind": note.kind, "text": note.text} for note in plan.notes],
        "trust_remote_code": plan.recipe.model.trust_remote_code or plan.recipe.trust,
        "environment": {
            "device": plan.machine.device_class,
            "cores": plan.machine.cores,
            "memory_mb": round(plan.machine.memory / 1e6),
            "threads": plan.threads,
            "seed": plan.recipe.seed,
            "target": plan.recipe.target.to_wire(),
            "libraries": {"picual": __version__}
            | {name: version for name in LOCKED if (version := _lazy.version_of(name))},
        },
    }


def _measures(plan: Plan) -> dict[str, Any]:
    """Return the main number of each metric: its key, its unit, and which way is better."""
    return {
        planned.name: {
            "type": planned.metric.name,
            "key": planned.metric.key,
            "unit": planned.metric.unit,
            "higher_is_better": planned.metric.rises(),
        }
        for planned in plan.metrics
    }


def _stage(values: dict[str, dict[str, dict[str, Any]]], stage: str) -> dict[str, Any]:
    return {name: stages[stage] for name, stages in values.items() if stage in stages}


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "name": step.name,
        "pass": step.pass_name,
        "key": step.key,
        "seconds": round(step.seconds, 3),
        "start": None if step.start is None else round(step.start, 3),
        "cached": step.cached,
        "made_in": step.made_in,
        "peak_rss_mb": round(step.peak_rss / 1e6, 1),
        "peak_anonymous_mb": round(step.peak_anonymous / 1e6, 1),
        "journal": step.journal,
        "checks": step.checks,
        "metrics": step.metrics,
        "curves": step.curves,
    }
