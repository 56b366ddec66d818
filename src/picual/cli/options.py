"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from picual.recipe.load import Overrides

store_option = click.option("--store", type=click.Path(path_type=Path), help="Folder of finished steps.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


output_option = click.option("-o", "--output", type=click.Path(path_type=Path), help="Output folder.")


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the recipe argument and everything that changes a recipe."""
    return with_options(
        command,
        click.argument("recipe", required=False, type=click.Path(path_type=Path)),
        click.option("--config", type=click.Path(path_type=Path), help="The recipe, as an option."),
        output_option,
        store_option,
        click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change one value."),
        click.option("--model", help="Use this model instead of the recipe's."),
        click.option("--host", help="Run there; `local` is this machine."),
        click.option("--target", help="Build for this provider; `local` is this machine."),
        click.option("--offline", is_flag=True, help="Make no network call."),
        click.option("--trust", is_flag=True, help="Allow model code and pickles."),
        json_option,
    )


def recipe_of(given: dict[str, Any]) -> Path:
    """Return the recipe named by the argument or by ``--config``."""
    named: Path | None = given["recipe"] or given["config"]
    if named is None:
        raise click.UsageError(f"give a recipe: picual {click.get_current_context().info_name} RECIPE")
    return named


def changes_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``api.load`` that the options stand for."""
    overrides = Overrides(
        model=given["model"], host=given["host"], target=given["target"], offline=given["offline"],
        trust=given["trust"],
    )  # fmt: skip
    return {"settings": given["settings"], "overrides": overrides}


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the model argument and what a verb that works on one model takes."""
    return with_options(
        command,
        click.argument("model"),
        click.option("--adapter", type=click.Path(path_type=Path), help="LoRA adapter to put on the model."),
        click.option("--revision", help="Of a hub model."),
        store_option,
        click.option("--offline", is_flag=True, help="Make no network call."),
        click.option("--trust", is_flag=True, help="Allow model code and pickles."),
        json_option,
    )


def model_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model as a recipe describes it."""
    model: dict[str, Any] = {"uri": given["model"], "revision": given["revision"]}
    if given["trust"]:
        model["trust_remote_code"] = True
    if given["adapter"] is not None:
        model["adapter"] = str(given["adapter"])
    return {key: value for key, value in model.items() if value is not None}


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what describes one data set."""
    return with_options(
        command,
        click.option(
            "--data", "files", multiple=True, type=click.Path(path_type=Path), help="JSON or JSON lines file."
        ),
        click.option("--template", help="One row as text: `{column}` is replaced."),
        click.option("--prompt", help="Template of what the model is given."),
        click.option("--response", help="Template of what the model must write."),
        click.option("--chat", help="Column with messages."),
        click.option("--text", help="Column that holds the whole text."),
        click.option("--max-length", type=int, help="Longest sequence, in tokens."),
        click.option("--holdout", type=float, help="Share of rows kept from training."),
    )


def data_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data:` of a recipe: one set called `data`, or none."""
    if not given["files"]:
        return {}
    named = ("template", "prompt", "response", "chat", "text", "max_length", "holdout")
    described = {key: given[key] for key in named if given[key] is not None}
    return {"data": {"files": [str(file) for file in given["files"]], **described}}


def with_options(command: Callable[..., Any], *options: Callable[..., Any]) -> Callable[..., Any]:
    """Add options, the first of them first in the help."""
    for option in reversed(options):
        command = option(command)
    return command
