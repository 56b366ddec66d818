"""``picual demo``: the tone example end to end."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import render
from picual.cli.commands.run import show

RECIPE = Path(__file__).parents[2] / "assets" / "tone" / "recipe.yaml"


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("picual-demo"), help="Output folder."
)
@click.option("--store", type=click.Path(path_type=Path), help="Folder of finished steps.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def demo(output: Path, store: Path | None, as_json: bool) -> None:
    """Fine-tune a 135M model to tell tones apart, merge, quantize to int4, verify, measure."""
    show(api.run(RECIPE, output=output, store=store, listeners=(render.Progress(),)), as_json=as_json)
