"""``picual passes``: what steps there are, and what they take."""

from __future__ import annotations

import sys

import click

from picual.passes import registry
from picual.space import fields_of


@click.group()
def passes() -> None:
    """List passes, or show one."""


@passes.command("list")
def list_() -> None:
    """Print every pass name."""
    for name in registry.names():
        click.echo(name)


@passes.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the page of one pass and its fields."""
    kind = registry.load(name)
    click.echo((sys.modules[kind.__module__].__doc__ or "").strip() + "\n")
    for item in fields_of(kind):
        unit = f" [{item.metadata['unit']}]" if item.metadata.get("unit") else ""
        click.echo(f"  {item.name} = {item.default!r}{unit}  {item.metadata.get('help', '')}")
