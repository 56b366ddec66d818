"""``picual store``: what is kept, whether it is whole, and why a step will run again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import options, render
from picual.errors import Corrupt
from picual.executors.share_pruning import prune_share
from picual.plan.sites import STATE
from picual.recipe.sizes import bytes_of
from picual.store.local import Entry, Store, size_of


@click.group()
@options.store_option
@click.pass_context
def store(ctx: click.Context, store: Path | None) -> None:
    """Look at finished steps."""
    ctx.obj = Store(store)


def _kept(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the command its store: the one named after it, or before it, or the default one."""

    @options.store_option
    @click.pass_context
    @functools.wraps(command)
    def called(ctx: click.Context, /, store: Path | None, **given: Any) -> Any:
        return command(kept=Store(store) if store is not None else ctx.obj, **given)

    return called


@store.command()
@_kept
@options.json_option
def ls(kept: Store, as_json: bool) -> None:
    """List the entries, oldest first."""
    found = [_facts(entry) for entry in kept.entries()]
    if as_json:
        render.show_json(found)
        return
    for facts in found:
        click.echo(f"{facts['key'][:12]}  {facts['bytes'] / 1e6:9.1f} MB  {facts['label']}")


def _facts(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {"key": manifest.key, "bytes": size_of(entry), "label": manifest.label, "created": manifest.created}


@store.command()
@options.recipe_options
@click.pass_obj
def why(kept: Store, /, **given: Any) -> None:
    """Say which steps of RECIPE are kept, and what is new about those that are not."""
    root = given["store"] or kept.root
    a_plan = api.plan(options.recipe_of(given), store=root, offline=given["offline"], **options.changes_of(given))
    steps = [{"step": step.name, "cached": step.cached, "why": step.why} for step in a_plan.steps]
    if given["as_json"]:
        render.show_json(steps)
        return
    for step in steps:
        click.echo(f"{step['step']}: {'kept' if step['cached'] else step['why']}")


@store.command()
@_kept
@options.json_option
def verify(kept: Store, as_json: bool) -> None:
    """Hash every entry; a damaged one is set aside."""
    whole, damaged = [], []
    for entry in kept.entries():
        try:
            kept.verify(entry)
            whole.append(entry.manifest.key)
        except Corrupt as error:
            damaged.append(error)
            click.echo(f"error: {error}", err=True)
    if as_json:
        render.show_json({"whole": whole, "damaged": [error.to_wire() for error in damaged]})
    elif not damaged:
        click.echo("every entry is whole")
    if damaged:
        click.get_current_context().exit(damaged[0].exit_code)


@store.command()
@click.option("--max-size", help="Keep at most this much (`10GB`).")
@click.option("--older-than", type=click.FloatRange(min=0), help="Remove what is older than this many days.")
@click.option(
    "--share",
    "shares",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Folder that hosts share, or the cache of a node; may be given again.",
)
@_kept
@options.json_option
def prune(
    kept: Store, max_size: str | None, older_than: float | None, shares: tuple[Path, ...], as_json: bool
) -> None:
    """Remove entries, oldest first, and what was on its way to other machines and not used for a day."""
    limit = bytes_of(max_size) if max_size else None
    if max_size and limit is None:
        raise click.BadParameter(f"`{max_size}` is no size: write 10GB", param_hint="--max-size")
    freed = {str(place): prune_share(place) for place in (kept.root / STATE / "share", *shares)}
    gone = kept.prune(max_bytes=limit, older_than_days=older_than)
    if as_json:
        entries = [{"key": key, "bytes": size} for key, size in gone]
        render.show_json([*entries, *({"share": place, "bytes": size} for place, size in freed.items() if size)])
        return
    for key, size in gone:
        click.echo(f"{key[:12]}  {size / 1e6:.1f} MB")
    for place, size in freed.items():
        if size:
            click.echo(f"{place}  {size / 1e6:.1f} MB")
