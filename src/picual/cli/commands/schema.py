"""``picual schema``: the JSON Schema of a recipe, for editors."""

from __future__ import annotations

import json

import click

from picual.recipe import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the native recipe."""
    click.echo(json.dumps(json_schema.schema(), indent=2))
