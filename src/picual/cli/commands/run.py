"""``picual run``: a recipe to a verified model."""

from __future__ import annotations

from typing import Any

import click

from picual import api
from picual.cli import options, progress, render


@click.command()
@options.recipe_options
@click.option("--fresh/--resume", help="Do every step again, or continue (the default).")
def run(fresh: bool, **given: Any) -> None:
    """Run RECIPE to a verified model in its output folder."""
    recipe = api.load(options.recipe_of(given), **options.changes_of(given))
    render.show_notes(recipe.notes)
    outcome = api.run(
        recipe, output=given["output"], store=given["store"], offline=given["offline"], fresh=fresh,
        listeners=progress.listeners(),
    )  # fmt: skip
    render.show_outcome(outcome.report, worked=outcome.result.worked, as_json=given["as_json"])
