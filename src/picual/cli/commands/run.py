"""``picual run``: a recipe to a verified model."""

from __future__ import annotations

import json
from typing import Any

import click

from picual import api
from picual.cli import options, render


@click.command()
@options.recipe_options
@click.option("--fresh/--resume", help="Do every step again, or continue (the default).")
def run(fresh: bool, **given: Any) -> None:
    """Run RECIPE to a verified model in its output folder."""
    recipe = api.load(options.recipe_of(given), **options.changes_of(given))
    render.show_notes(recipe.notes)
    outcome = api.run(
        recipe, output=given["output"], store=given["store"], offline=given["offline"], fresh=fresh,
        listeners=(render.Progress(),),
    )  # fmt: skip
    show(outcome, as_json=given["as_json"])


def show(outcome: api.Outcome, *, as_json: bool) -> None:
    """Print what a run reached."""
    if as_json:
        click.echo(json.dumps(outcome.report, indent=2))
        return
    if not outcome.result.worked:
        click.echo("nothing to do: every step is in the store", err=True)
    if outcome.result.metrics:
        click.echo(render.table(outcome.report))
    click.echo(f"verified: {outcome.model}")
