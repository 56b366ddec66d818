"""The report of a run as JSON and as a table: what was made, what it cost, what was checked."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from picual import __version__, _atomic, _lazy
from picual.engine.output import LOCKED
from picual.engine.results import RunResult, StepResult
from picual.errors import BadValue
from picual.plan import Plan

VERSION = 1
SCHEMA = Path(__file__).parent / "assets" / "report.schema.json"


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
        "output": str(result.output),
        "model": str(result.output / "model") if result.error is None else None,
        "baseline": _stage(values, "baseline"),
        "unquantized": _stage(values, "unquantized"),
        "best": _stage(values, "final" if plan.steps else "baseline"),
        "data": _stage(values, "data"),
        "trials": [],
        "steps": [_step(step) for step in result.steps],
        "constraints": [],
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


def _stage(values: dict[str, dict[str, dict[str, Any]]], stage: str) -> dict[str, Any]:
    return {name: stages[stage] for name, stages in values.items() if stage in stages}


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "name": step.name,
        "pass": step.pass_name,
        "key": step.key,
        "seconds": round(step.seconds, 3),
        "cached": step.cached,
        "peak_rss_mb": round(step.peak_rss / 1e6, 1),
        "peak_anonymous_mb": round(step.peak_anonymous / 1e6, 1),
        "journal": step.journal,
        "checks": step.checks,
        "metrics": step.metrics,
    }


def write(result: RunResult, plan: Plan) -> dict[str, Any]:
    """Write ``OUT/report.json`` and return it. A failed run is reported too, with what it reached."""
    report = build(result, plan)
    _atomic.write_json(result.output / "report.json", report)
    return report


def read(output: Path) -> dict[str, Any]:
    """Read the report of an output folder.

    Raises:
        BadValue: There is no report, or not a whole one.
    """
    file = output / "report.json"
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not {"version", "verdict", "error", "model", "steps"} <= set(loaded):
            raise ValueError("not a report")
    except (OSError, ValueError, TypeError) as error:
        raise BadValue(
            f"there is no report of a run in `{output}`", where=str(file), hint="give the output folder of a run"
        ) from error
    return loaded


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``report.json``."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return loaded
