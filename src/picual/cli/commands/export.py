"""``picual export``: for ONNX Runtime GenAI, or a quantized checkpoint for ``transformers``."""

from __future__ import annotations

from typing import Any

import click

from picual.cli.commands.one_pass import fields_given, run_pass, verb

GENAI = "genai"
FORMATS = (GENAI, "compressed-tensors", "gptq")

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
        raise click.UsageError(f"--{name} is for `--format {GENAI}`; {form} takes the integers as they are")
    run_pass("export-transformers", "export", given, {"format": form}, {})


export.callback = _export
export.params.append(
    click.Option(
        ["--format"], type=click.Choice(FORMATS), default=GENAI, show_default=True,
        help="What to write; all but genai take a MODEL that `picual quantize` made.",
    )
)  # fmt: skip
