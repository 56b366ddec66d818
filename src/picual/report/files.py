"""The report's files in an output folder: ``report.json`` first, then the page and the text made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picual import _atomic
from picual.engine.results import RunResult
from picual.errors import BadValue
from picual.plan import Plan
from picual.report.build import build
from picual.report.markdown import markdown
from picual.report.page import page

SCHEMA = Path(__file__).parents[1] / "assets" / "report.schema.json"


def write(result: RunResult, plan: Plan) -> dict[str, Any]:
    """Write ``OUT/report.json``, ``.html`` and ``.md`` and return the first.

    A failed run is reported too, with what it reached.
    """
    report = build(result, plan)
    _atomic.write_json(result.output / "report.json", report)
    # What is written is read back, so that a page of this run and one made later are the same.
    write_page(result.output)
    write_markdown(result.output)
    return report


def write_page(output: Path) -> Path:
    """Make ``OUT/report.html`` from ``OUT/report.json`` and return its path."""
    file = output / "report.html"
    _atomic.write_text(file, page(read(output)))
    return file


def write_markdown(output: Path) -> Path:
    """Make ``OUT/report.md`` from ``OUT/report.json`` and return its path."""
    file = output / "report.md"
    _atomic.write_text(file, markdown(read(output)))
    return file


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
