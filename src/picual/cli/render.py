"""How errors, notes and results look. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from picual.errors import PicualError
from picual.recipe.schema import Note

MOST_TRIALS = 10  # in the table of a search; the report has all
SAID = 60  # characters of why a trial ended
STAGES = ("baseline", "unquantized", "best", "data")
# The number that stands for a metric in the table, and its unit.
SHOWN = {"accuracy": "", "perplexity": "", "tokens_per_s": "tokens/s", "size_mb": "MB", "kl": "nats"}


def show_error(error: PicualError, *, as_json: bool) -> None:
    """Print an error for a person, and as JSON on stdout when asked."""
    if as_json:
        show_json({"error": error.to_wire()})
    click.echo(f"error: {error}", err=True)


def show_json(value: Any) -> None:
    """Print data on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_notes(notes: Sequence[Note]) -> None:
    """Print what a conversion changed or could not honour; plain mappings are left out."""
    for note in notes:
        if note.kind != "mapped":
            click.echo(f"note: {note.path}: {note.text} ({note.kind})", err=True)


def show_outcome(report: Mapping[str, Any], *, worked: bool, as_json: bool) -> None:
    """Print what a run reached: its table, and where the model is.

    Args:
        report: As in ``report.json``.
        worked: Whether anything had to be done.
        as_json: Print the report itself.
    """
    if as_json:
        show_json(report)
        return
    if not worked:
        click.echo("nothing to do: every step is in the store", err=True)
    show_report(report)


def show_report(report: Mapping[str, Any]) -> None:
    """Print a report for a person."""
    if any(report[stage] for stage in STAGES):
        click.echo(table(report))
    if report.get("search"):
        show_search(report)
    if report["error"]:
        click.echo(f"{report['verdict']}: {report['error']['what']}")
        if report["model"]:
            click.echo(f"model: {report['model']}")
    elif report["model"]:
        click.echo(f"{report['verdict']}: {report['model']}")
    if found := report.get("registered"):
        click.echo(f"registered: {found['name']}:{found['version']} ({found['address']})")


def show_search(report: Mapping[str, Any]) -> None:
    """Print the best trials of a search, the limits, and how it ended."""
    search = report["search"]
    tried = [trial for trial in report["trials"] if trial["rank"] is not None]
    if tried and search["space"]:
        click.echo(
            "\n" + columns([_heads(tried[0], search), *(_trial(trial, search) for trial in tried[:MOST_TRIALS])])
        )
    for limit in report["constraints"]:
        name = f"{limit['metric']}.{limit['key']}"
        kept = (
            "kept" if limit["met"] else "unknown" if limit["gap"] is None else f"beyond by {number(limit['gap'])}"
        )
        click.echo(f"{name} {limit['bound']}: {'-' if limit['value'] is None else number(limit['value'])}, {kept}")
    if search["tied"]:
        click.echo(f"tied inside the noise: trials {', '.join(map(str, search['tied']))}")
    if not search["space"]:
        return  # of the one candidate all is said
    size = "" if search["candidates"] is None else f" of {search['candidates']} candidates"
    click.echo(
        f"{search['asked']} tried{size}, {search['dropped']} dropped, {search['failed']} failed"
        f" ({search['sampler']}): {search['stopped']}"
    )


def _heads(trial: Mapping[str, Any], search: Mapping[str, Any]) -> list[str]:
    goals = [f"{one['metric']}.{one['key']}" for one in search["objectives"]]
    return ["trial", *(name.rpartition(".")[2] for name in search["space"]), "size (MB)", *goals, ""]


def _trial(trial: Mapping[str, Any], search: Mapping[str, Any]) -> list[str]:
    values = trial["metrics"]
    goals = [values.get(one["metric"], {}).get(one["key"]) for one in search["objectives"]]
    said = (
        "best"
        if trial["number"] == search["best"]
        else trial["why"] or ("" if trial["feasible"] else "beyond a limit")
    )
    cells = [trial["candidate"].get(name) for name in search["space"]]
    numbers = [values.get("size", {}).get("size_mb"), *goals]
    return [
        str(trial["number"]), *("-" if cell is None else str(cell) for cell in cells),
        *("-" if one is None else number(one) for one in numbers), said[:SAID],
    ]  # fmt: skip


def table(report: Mapping[str, Any]) -> str:
    """Return the metrics of a report as a table: one row a metric, one column a stage."""
    stages = [name for name in STAGES if report[name]]
    names = list(dict.fromkeys(metric for stage in stages for metric in report[stage]))
    rows = [["", *stages]]
    for name in names:
        key = _key(next(report[stage][name] for stage in stages if report[stage].get(name)))
        label = f"{name} ({SHOWN[key]})" if SHOWN.get(key) else name
        rows.append([label, *(_cell(report[stage].get(name), key) for stage in stages)])
    return columns(rows)


def show_comparison(compared: Mapping[str, Any]) -> None:
    """Print two runs side by side: the numbers of their best models, then the settings that differ."""
    click.echo(
        "\n".join(f"{number}  {run['output']}  {run['verdict']}" for number, run in enumerate(compared["runs"], 1))
    )
    rows = [["", "1", "2", "2 against 1", "better"]]
    for row in compared["metrics"]:
        better = {"first": "1", "second": "2", None: "-"}[row["better"]]
        noise = " (within the noise)" if row["within_noise"] else ""
        rows.append([row["label"], *row["texts"], row["difference_text"], better + noise])
    if compared["metrics"]:
        click.echo("\n" + columns(rows))
    if compared["recipe"]:
        settings = [["setting", "1", "2"]]
        settings += [
            [setting["path"], *("-" if value is None else str(value) for value in setting["values"])]
            for setting in compared["recipe"]
        ]
        click.echo("\n" + columns(settings))
    elif compared["recipe"] is not None:
        click.echo("\nboth recipes have the same settings")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length as aligned text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _key(values: Mapping[str, Any]) -> str:
    return next((key for key in SHOWN if key in values), next(iter(values)))


def _cell(values: Mapping[str, Any] | None, key: str) -> str:
    return number(values[key]) if values and key in values else "-"


def number(value: Any) -> str:
    """Return a number with as many digits as a reader needs."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
