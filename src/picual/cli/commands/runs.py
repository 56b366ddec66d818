"""``picual runs``: what was run."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, render


@click.command()
@options.store_option
@options.json_option
def runs(store: Path | None, as_json: bool) -> None:
    """List the runs the store has seen, oldest first."""
    found = api.runs(store)
    if as_json:
        render.show_json(found)
        return
    for seen in found:
        click.echo(f"{seen['verdict']:12} {seen['seconds']:8.1f} s  {seen['recipe'] or '-'}  {seen['output']}")
