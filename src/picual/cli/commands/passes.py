"""``picual passes``: what steps there are, and what they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from picual.cli import options, render
from picual.passes import registry
from picual.space import fields_of


@click.group()
def passes() -> None:
    """List passes, or show one."""


@passes.command("list")
@options.json_option
def list_(as_json: bool) -> None:
    """Print every pass name."""
    if as_json:
        render.show_json(registry.names())
        return
    click.echo("\n".join(registry.names()))


@passes.command()
@click.argument("name")
@options.json_option
def show(name: str, as_json: bool) -> None:
    """Print the page of one pass and its fields."""
    page, fields = registry.page(name), fields_of(registry.load(name))
    if as_json:
        described = [{"name": item.name, "default": item.default, **_described(item.metadata)} for item in fields]
        render.show_json({"name": name, "page": page, "fields": described})
        return
    click.echo(page + "\n")
    for item in fields:
        unit = f" [{item.metadata['unit']}]" if item.metadata["unit"] else ""
        click.echo(f"  {item.name} = {item.default!r}{unit}  {item.metadata['help']}")


def _described(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {"help": metadata["help"], "unit": metadata["unit"]}
