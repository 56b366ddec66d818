"""``picual store``: what is kept, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from picual.recipe.sizes import bytes_of
from picual.store.local import Store, size_of


@click.group()
@click.option("--store", "root", type=click.Path(path_type=Path), help="Folder of finished steps.")
@click.pass_context
def store(ctx: click.Context, root: Path | None) -> None:
    """Look at finished steps."""
    ctx.obj = Store(root)


@store.command()
@click.pass_obj
def ls(kept: Store) -> None:
    """List the entries, oldest first."""
    for entry in kept.entries():
        click.echo(f"{entry.manifest.key[:12]}  {size_of(entry) / 1e6:9.1f} MB  {entry.manifest.label}")


@store.command()
@click.pass_obj
def verify(kept: Store) -> None:
    """Hash every entry; a damaged one is set aside."""
    for entry in kept.entries():
        kept.verify(entry)
    click.echo("every entry is whole")


@store.command()
@click.option("--max-size", help="Keep at most this much (`10GB`).")
@click.option("--older-than", type=float, help="Remove what is older than this many days.")
@click.pass_obj
def prune(kept: Store, max_size: str | None, older_than: float | None) -> None:
    """Remove entries, oldest first."""
    limit = bytes_of(max_size) if max_size else None
    for key, size in kept.prune(max_bytes=limit, older_than_days=older_than):
        click.echo(f"{key[:12]}  {size / 1e6:.1f} MB")
