"""``picual models``: models that can be had without a hub."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import render


@click.group()
def models() -> None:
    """Fetch models into the store."""


@models.command()
@click.argument("name")
@click.option("--layout", type=click.Choice(["llama", "phi3"]), default="llama", show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="Folder of finished steps.")
@click.option("--offline", is_flag=True, help="Make no network call.")
def fetch(name: str, layout: str, store: Path | None, offline: bool) -> None:
    """Fetch NAME (`smollm2-135m`, a hub id, a GGUF file) once, and print its folder."""
    listeners = (render.Progress(),)
    click.echo(api.fetch(name, options={"layout": layout}, store=store, offline=offline, listeners=listeners))
