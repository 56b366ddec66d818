"""How errors, progress and results look. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from picual.errors import PicualError
from picual.recipe.schema import Note

PROGRESS_SECONDS = 10.0  # between two progress lines


def show_error(error: PicualError, *, as_json: bool) -> None:
    """Print an error for a person, and as JSON on stdout when asked."""
    if as_json:
        click.echo(json.dumps({"error": error.to_wire()}))
    click.echo(f"error: {error}", err=True)


def show_notes(notes: Sequence[Note]) -> None:
    """Print what a conversion changed or could not honour; plain mappings are left out."""
    for note in notes:
        if note.kind != "mapped":
            click.echo(f"note: {note.path}: {note.text} ({note.kind})", err=True)


class Progress:
    """Plain lines for what happens: a step's start and end, and a sign of life every ten seconds."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Print one event, if it is worth a line."""
        match event["event"]:
            case "step" if event["status"] == "start":
                click.echo(f"[{event['number']}/{event['of']}] {event['step']}", err=True)
            case "step" if event["status"] == "done":
                how = "in the store already" if event["cached"] else f"{event['seconds']:.1f} s"
                click.echo(f"      {event['step']}: {how}, {event['checks']} checks passed", err=True)
            case "progress" if time.monotonic() - self._shown >= PROGRESS_SECONDS:
                self._shown = time.monotonic()
                share = float(event["done"]) / max(float(event["total"]), 1e-9)
                click.echo(f"      {event['step']}: {share:.0%} {event['note']}", err=True)
            case "metric":
                click.echo(f"      {event['metric']} of {event['stage']}: {number(event['value'])}", err=True)


def table(report: Mapping[str, Any]) -> str:
    """Return the metrics of a report as a table: one row a metric, one column a stage."""
    stages = [name for name in ("baseline", "unquantized", "best", "data") if report.get(name)]
    names = list(dict.fromkeys(metric for stage in stages for metric in report[stage]))
    rows = [["", *stages]]
    rows += [[name, *(_cell(report[stage].get(name)) for stage in stages)] for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _cell(values: Mapping[str, Any] | None) -> str:
    if not values:
        return "-"
    for key in ("accuracy", "perplexity", "tokens_per_s", "size_mb", "kl"):
        if key in values:
            return number(values[key])
    return number(next(iter(values.values())))


def number(value: Any) -> str:
    """Return a number with as many digits as a reader needs."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
