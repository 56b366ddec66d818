"""``picual optimize``: the best model inside the limits, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import options, progress, render
from picual.recipe.load import Overrides
from picual.recipe.wish import TRIALS


@click.command()
@options.model_options
@options.output_option
@click.option("--target", type=click.Choice(["cpu", "gpu", "npu"]), default="cpu", help="What it is made for.")
@click.option(
    "--precision", type=click.Choice(["int4", "int8", "fp16", "fp32", "auto"]), default="int4",
    help="Of the weights; int4: some wider where limits leave room; `auto`: int4 or int8.",
)  # fmt: skip
@click.option("--max-size", metavar="SIZE", help="Such as 110MB.")
@click.option("--min-accuracy", metavar="SHARE", help="Such as 0.85, or 0.99x of the unquantized model's.")
@click.option("--max-kl", type=float, metavar="NATS", help="Divergence from the unquantized model.")
@click.option("--max-latency", metavar="TIME", help="A token, such as 8ms.")
@click.option("--aim", type=click.Choice(["quality", "size", "speed"]), help="What is best inside the limits.")
@click.option("--trials", type=click.IntRange(1), default=TRIALS, show_default=True, help="At most.")
@options.data_options
def optimize(**given: Any) -> None:
    """Make the best deployable form of MODEL that keeps the limits, and write the recipe it took."""
    data = options.data_of(given).get("data", {})
    recipe, reasons = api.optimizing(
        options.model_of(given), device=given["target"],
        precision=None if given["precision"] == "auto" else given["precision"], data=data,
        max_size=given["max_size"], min_accuracy=given["min_accuracy"], max_kl=given["max_kl"],
        max_latency=given["max_latency"], aim=given["aim"], trials=given["trials"],
    )  # fmt: skip
    for reason in reasons:
        click.echo(f"chosen: {reason}", err=True)
    output = given["output"] or Path("picual-optimize")
    written = api.written(recipe, output, overrides=Overrides(trust=given["trust"]))
    click.echo(f"recipe: {written.file}", err=True)
    outcome = api.run(
        written, output=output, store=given["store"], offline=given["offline"], listeners=progress.listeners()
    )
    render.show_outcome(outcome.report, worked=outcome.result.worked, as_json=given["as_json"])
