"""``picual report``: what a run reached, again, as a page, or beside another run."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, render


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", is_flag=True, help="Write RUN/report.html anew and print its path.")
@click.option("--md", is_flag=True, help="Write RUN/report.md anew and print its path.")
@click.option(
    "--compare", "other", type=click.Path(path_type=Path), help="Output folder of a run to set beside it."
)
@options.json_option
def report(run: Path, html: bool, md: bool, other: Path | None, as_json: bool) -> None:
    """Show the report of RUN, the output folder of a run."""
    if html + md + (other is not None) > 1:
        raise click.UsageError("give one of --html, --md and --compare")
    if html or md:
        _show_file(api.write_report(run, form="html" if html else "md"), as_json=as_json)
    elif other is not None:
        compared = api.compare(run, other)
        (render.show_json if as_json else render.show_comparison)(compared)
    else:
        _show(run, as_json=as_json)


def _show_file(file: Path, *, as_json: bool) -> None:
    if as_json:
        render.show_json({"file": str(file)})
    else:
        click.echo(file)


def _show(run: Path, *, as_json: bool) -> None:
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
