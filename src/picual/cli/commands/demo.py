"""``picual demo``: the tone example end to end."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, progress, render

RECIPE = Path(__file__).parents[2] / "assets" / "tone" / "recipe.yaml"


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("picual-demo"), help="Output folder."
)
@options.store_option
@options.json_option
def demo(output: Path, store: Path | None, as_json: bool) -> None:
    """Fine-tune a 135M model to tell tones apart, merge, quantize to int4, verify, measure."""
    outcome = api.run(RECIPE, output=output, store=store, listeners=progress.listeners())
    render.show_outcome(outcome.report, worked=outcome.result.worked, as_json=as_json)
