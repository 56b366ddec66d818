"""``picual report``: what a run reached, again."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, render


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@options.json_option
def report(run: Path, as_json: bool) -> None:
    """Show the report of RUN, the output folder of a run."""
    found = api.report(run)
    if as_json:
        render.show_json(found)
        return
    rows = [["step", "pass", "seconds", "peak MB", "checks"]]
    for step in found["steps"]:
        seconds = "in the store" if step["cached"] else f"{step['seconds']:.1f}"
        rows.append([step["name"], step["pass"], seconds, f"{step['peak_rss_mb']:.0f}", str(len(step["checks"]))])
    click.echo(render.columns(rows) + "\n")
    render.show_report(found)
