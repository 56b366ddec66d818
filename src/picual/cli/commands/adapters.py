"""``picual convert-adapters`` and ``extract-adapters``: adapter files for ONNX Runtime, without an export."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, render


@click.command("convert-adapters")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File; left out, ADAPTER.onnx_adapter.")
@click.option("--base", help="Folder of the model it was trained on; left out, the one that the adapter names.")
@click.option("--model", type=click.Path(path_type=Path), help="Exported folder whose graph takes it.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
              help="What the graph computes in; --model says it itself.")  # fmt: skip
@options.json_option
def convert_adapters(
    adapter: Path, output: Path | None, base: str | None, model: Path | None, dtype: str, as_json: bool
) -> None:
    """Write ADAPTER, a folder in peft's form, as one file that ONNX Runtime GenAI loads beside its base."""
    file = output or Path(f"{adapter.name}.onnx_adapter")
    count = api.convert_adapter(adapter, file, base=base, model=model, halves=dtype == "float16")
    if as_json:
        render.show_json({"file": str(file), "inputs": count})
        return
    click.echo(file)
    click.echo(f"fills {count} inputs", err=True)


@click.command("extract-adapters")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("adapters"), show_default=True,
              help="Folder to write into.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["onnx_adapter", "safetensors"]), default="onnx_adapter",
              show_default=True, help="Of the files.")  # fmt: skip
@options.json_option
def extract_adapters(model: Path, output: Path, form: str, as_json: bool) -> None:
    """Write the adapters of MODEL, an exported folder or an adapter in peft's form, as files of their own."""
    files = api.extract_adapters(model, output, form="safetensors" if form == "safetensors" else "onnx_adapter")
    if as_json:
        render.show_json({"files": [str(file) for file in files]})
        return
    for file in files:
        click.echo(file)
