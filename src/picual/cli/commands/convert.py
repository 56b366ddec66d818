"""``picual convert``: an Olive config as a native recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from picual import _atomic, api
from picual.cli import options, render
from picual.recipe import dump


@click.command()
@options.recipe_options
def convert(**given: Any) -> None:
    """Print RECIPE, an Olive config, as a native recipe, or write it to the file after -o; notes go to stderr."""
    file: Path | None = None if given["as_json"] else given["output"]
    recipe = api.converted(
        options.recipe_of(given), beside=None if file is None else file.parent, **options.changes_of(given)
    )
    if given["as_json"]:
        notes = [vars(note) for note in recipe.notes]
        click.echo(json.dumps({"recipe": dump.to_mapping(recipe), "notes": notes}, indent=2, default=str))
        return
    render.show_notes(recipe.notes)
    if file is not None:
        _atomic.write_text(file, dump.to_yaml(recipe))
        return
    click.echo(dump.to_yaml(recipe), nl=False)
