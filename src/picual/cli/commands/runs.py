"""``picual runs``: what was run."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api


@click.command()
@click.option("--store", type=click.Path(path_type=Path), help="Folder of finished steps.")
def runs(store: Path | None) -> None:
    """List the runs the store has seen, oldest first."""
    for seen in api.runs(store):
        click.echo(f"{seen['verdict']:12} {seen['seconds']:8.1f} s  {seen['recipe'] or '-'}  {seen['output']}")
