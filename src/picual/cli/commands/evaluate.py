"""``picual evaluate``: metrics of any model, without changing it."""

from __future__ import annotations

from typing import Any

import click

from picual import api
from picual.cli import options, progress, render
from picual.metrics import registry
from picual.recipe import yaml_text
from picual.space import fields_of


@click.command()
@options.model_options
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME[=FILE]", required=True,
    help="Such as `latency`, `size`, `perplexity=FILE` with a text file, or `accuracy` with --data.",
)  # fmt: skip
@click.option(
    "--field", "fields", multiple=True, metavar="METRIC.FIELD=VALUE", help="Such as accuracy.match=class."
)
@options.data_options
def evaluate(metrics: tuple[str, ...], fields: tuple[str, ...], **given: Any) -> None:
    """Measure MODEL. Values are kept in the store, and asked for again they are there at once."""
    asked = dict(_metric(text, has_data=bool(given["files"])) for text in metrics)
    for text in fields:
        path, equals, value = text.partition("=")
        name, dot, field = path.partition(".")
        if not equals or not dot or name not in asked:
            raise click.UsageError(
                f"`{text}` sets nothing: write METRIC.FIELD=VALUE of a metric that is asked for"
            )
        asked[name][field] = yaml_text.value_of(value)
    values = api.evaluate(
        options.model_of(given), asked, data=options.data_of(given), store=given["store"],
        offline=given["offline"], trust=given["trust"], listeners=progress.listeners(),
    )  # fmt: skip
    if given["as_json"]:
        render.show_json(values)
        return
    rows = [[name, key, render.number(value)] for name, found in values.items() for key, value in found.items()
            if isinstance(value, int | float)]  # fmt: skip
    click.echo(render.columns(rows))
    for found in values.values():
        for file in found.get("files", ()):
            click.echo(f"written: {file}")


def _metric(text: str, *, has_data: bool) -> tuple[str, dict[str, Any]]:
    """Return name and fields of `NAME` or `NAME=FILE`; a metric that reads something must be told what."""
    name, equals, file = text.partition("=")
    kind = registry.load(name)
    fields = fields_of(kind)
    takes_file = any(item.name == "file" for item in fields)
    if equals and not takes_file:
        raise click.UsageError(f"`{name}` reads no file: write --metric {name}")
    reads = kind.needs_data and not kind.has_text and any(item.metadata.get("role") == "data" for item in fields)
    if not equals and not has_data and reads:
        told = f"--metric {name}=FILE, or --data FILE" if takes_file else "--data FILE"
        raise click.UsageError(f"`{name}` must be told what to read: {told}")
    return name, {"file": file} if equals else {}
