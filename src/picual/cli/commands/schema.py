"""``picual schema``: the JSON Schema of a recipe, for editors, and of the report, for those who read it."""

from __future__ import annotations

import click

from picual import report
from picual.cli import options, render
from picual.recipe import json_schema


@click.command()
@click.argument("what", type=click.Choice(["recipe", "report"]), default="recipe")
@options.json_option
def schema(what: str, as_json: bool) -> None:
    """Print a JSON Schema: of the native recipe, or of `report.json`."""
    del as_json  # a schema is JSON anyway
    render.show_json(json_schema.schema() if what == "recipe" else report.schema())
