"""``picual quantize``: the pass of that name, and with ``--dry-run`` what each weight would weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import render
from picual.cli.commands.one_pass import fields_given, verb

quantize = verb(
    "quantize", "quantize", "Quantize MODEL to small integers; export or build-genai takes the result."
)
_run = quantize.callback
assert _run is not None


def _quantize(**given: Any) -> None:
    if not given.pop("dry_run"):
        assert _run is not None
        _run(**given)
        return
    fields = fields_given(given)
    rows = api.sizes_by_weight(Path(given["model"]), fields)
    if fields.keys() & {"max_size", "bits_per_weight"}:
        click.echo(
            "chosen by the weights alone: a run looks at text, and may choose others of that size", err=True
        )
    if given["as_json"]:
        render.show_json(rows)
    else:
        click.echo(_table(rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    total = sum(row["bytes"] for row in rows)
    cells = [["weight", "shape", "format", "MB"]]
    cells += [[row["name"], row["shape"], row["format"], f"{row['bytes'] / 1e6:.3f}"] for row in rows]
    return render.columns([*cells, ["total", "", "", f"{total / 1e6:.3f}"]])


quantize.callback = _quantize
quantize.params.append(
    click.Option(["--dry-run"], is_flag=True, help="Print the size of every weight; change nothing.")
)
