"""``picual run``: a recipe to a verified model."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import options, progress, render

KNOWN_SECONDS = 120.0  # that a detached driver may take to check and plan once more
POLL_SECONDS = 0.05


@click.command()
@options.recipe_options
@click.option("--fresh/--resume", help="Do every step again, or continue (the default).")
@click.option("--detach", is_flag=True, help="Check and plan, then go on without this terminal.")
def run(fresh: bool, detach: bool, **given: Any) -> None:
    """Run RECIPE to a verified model in its output folder."""
    recipe = api.load(options.recipe_of(given), **options.changes_of(given))
    render.show_notes(recipe.notes)
    if detach:
        folder = api.ready(recipe, output=given["output"], store=given["store"], offline=given["offline"])
        _detached(folder, as_json=given["as_json"])
        return
    outcome = api.run(
        recipe, output=given["output"], store=given["store"], offline=given["offline"], fresh=fresh,
        listeners=progress.listeners(),
    )  # fmt: skip
    render.show_outcome(outcome.report, worked=outcome.result.worked, as_json=given["as_json"])


def _detached(output: Path, *, as_json: bool) -> None:
    """Start the same command again, without ``--detach``, in a session of its own, and wait until it is known."""
    log = api.driver_log(output)
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [word for word in sys.argv[1:] if word not in {"--detach", "--json"}]  # what it prints is a log
    before = api.recorded(output)
    with log.open("ab") as said:
        began = said.tell()
        driver = subprocess.Popen(
            [sys.executable, "-m", "picual.cli.main", *words],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    if not _is_known(driver, output, before) and driver.poll():
        click.echo(log.read_bytes()[began:].decode(errors="replace").rstrip(), err=True)
        click.get_current_context().exit(driver.returncode)
    status = shlex.join(["picual", "runs", "status", str(output)])
    click.echo(f"running without this terminal; how it stands:\n  {status}", err=True)
    if as_json:
        render.show_json({"output": str(output), "pid": driver.pid})
    else:
        click.echo(str(output))


def _is_known(driver: subprocess.Popen[bytes], output: Path, before: int) -> bool:
    """Wait until the run is recorded, its driver has ended, or it takes too long; say whether it is recorded."""
    until = time.monotonic() + KNOWN_SECONDS
    while time.monotonic() < until and api.recorded(output) <= before and driver.poll() is None:
        time.sleep(POLL_SECONDS)
    return api.recorded(output) > before
