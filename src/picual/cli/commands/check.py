"""``picual check``: the mistakes of a recipe, all at once."""

from __future__ import annotations

import json
from typing import Any

import click

from picual import api
from picual.cli import options
from picual.errors import RecipeProblems


@click.command()
@options.recipe_options
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Say what is wrong in RECIPE; exit 0 or 2."""
    path = options.recipe_of(given)
    problems = api.check(path, **options.changes_of(given))
    if given["as_json"]:
        click.echo(json.dumps({"problems": [vars(problem) for problem in problems]}, indent=2))
    elif problems:
        click.echo(f"error: {RecipeProblems(str(path), problems)}", err=True)
    else:
        click.echo("no problems")
    if problems:
        ctx.exit(2)
