"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from picual.recipe.load import Overrides


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the recipe argument and everything that changes a recipe."""
    options = [
        click.argument("recipe", required=False, type=click.Path(path_type=Path)),
        click.option("--config", type=click.Path(path_type=Path), help="The recipe, as an option."),
        click.option("-o", "--output", type=click.Path(path_type=Path), help="Output folder."),
        click.option("--store", type=click.Path(path_type=Path), help="Folder of finished steps."),
        click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change one value."),
        click.option("--model", help="Use this model instead of the recipe's."),
        click.option("--host", help="Run there; `local` is this machine."),
        click.option("--target", help="Build for this provider; `local` is this machine."),
        click.option("--offline", is_flag=True, help="Make no network call."),
        click.option("--trust", is_flag=True, help="Allow model code and pickles."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def recipe_of(given: dict[str, Any]) -> Path:
    """Return the recipe named by the argument or by ``--config``."""
    named: Path | None = given["recipe"] or given["config"]
    if named is None:
        raise click.UsageError("give a recipe: picual run RECIPE")
    return named


def changes_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``api.load`` that the options stand for."""
    overrides = Overrides(
        model=given["model"], host=given["host"], target=given["target"], offline=given["offline"],
        trust=given["trust"],
    )  # fmt: skip
    return {"settings": given["settings"], "overrides": overrides}
