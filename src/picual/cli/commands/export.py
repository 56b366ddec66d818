"""``picual export``: for ONNX Runtime GenAI, a quantized checkpoint for ``transformers``, or an MLflow folder."""

from __future__ import annotations

from typing import Any

import click

from picual.cli.commands.one_pass import fields_given, run_pass, verb

GENAI, MLFLOW = "genai", "mlflow"
FORMATS = (GENAI, "compressed-tensors", "gptq", MLFLOW)

export = verb("export", "build-genai", "Export MODEL for ONNX Runtime GenAI, quantized if asked.")
_for_genai = export.callback
assert _for_genai is not None


def _export(**given: Any) -> None:
    form = given.pop("format")
    if form == GENAI:
        assert _for_genai is not None
        _for_genai(**given)
        return
    if fields := fields_given(given):
        name = next(iter(fields)).replace("_", "-")
        kept = "the checkpoint as it is" if form == MLFLOW else "the integers as they are"
        raise click.UsageError(f"--{name} is for `--format {GENAI}`; {form} takes {kept}")
    if form == MLFLOW:
        run_pass("export-mlflow", "export", given, {}, {})
    else:
        run_pass("export-transformers", "export", given, {"format": form}, {})


export.callback = _export
export.params.append(
    click.Option(
        ["--format"], type=click.Choice(FORMATS), default=GENAI, show_default=True,
        help="What to write; compressed-tensors and gptq take a MODEL that `picual quantize` made.",
    )
)  # fmt: skip
