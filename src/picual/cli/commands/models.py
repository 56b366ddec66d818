"""``picual models``: models that can be had without a hub."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, progress, render


@click.group()
def models() -> None:
    """Fetch models into the store."""


@models.command()
@click.argument("name")
@click.option("--layout", type=click.Choice(["llama", "phi3"]), help="Of `smollm2-135m`; left out, `llama`.")
@options.store_option
@click.option("--offline", is_flag=True, help="Make no network call.")
@options.json_option
def fetch(name: str, layout: str | None, store: Path | None, offline: bool, as_json: bool) -> None:
    """Fetch NAME (`smollm2-135m`, a hub id, a GGUF file) once, and print its folder."""
    chosen = {"layout": layout} if layout else {}
    folder = api.fetch(name, options=chosen, store=store, offline=offline, listeners=progress.listeners())
    if as_json:
        render.show_json({"model": name, "folder": str(folder)})
        return
    click.echo(folder)
