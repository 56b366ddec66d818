"""``picual runs``: what was run and what is running, and what a driver that went away left to do."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from pathlib import Path

import click

from picual import api
from picual.cli import options, render
from picual.errors import BadValue

CONTINUES = "the same `picual run` command again goes on with it: what was finished is in the store"
_OUTPUT = click.argument("output", type=click.Path(path_type=Path))


@click.group(invoke_without_command=True)
@options.store_option
@options.json_option
@click.pass_context
def runs(context: click.Context, store: Path | None, as_json: bool) -> None:
    """List the runs the store has seen, oldest first; or ask after one by its output folder."""
    if context.invoked_subcommand is not None:
        return
    found = api.runs(store)
    if as_json:
        render.show_json(found)
        return
    for seen in found:
        click.echo(f"{seen['verdict']:12} {seen['seconds']:8.1f} s  {seen['recipe'] or '-'}  {seen['output']}")


@runs.command()
@_OUTPUT
@options.json_option
def status(output: Path, as_json: bool) -> None:
    """Say how the run in OUTPUT stands."""
    found = api.standing(output)
    if as_json:
        render.show_json(dataclasses.asdict(found))
        return
    where = f"step {found.number} of {found.of} `{found.step}`" if found.step else "at its beginning"
    words = {
        "running": f"running: {where}", "ended": f"ended: {found.verdict}",
        "died": f"its driver is gone, {where} was under way",
    }  # fmt: skip
    click.echo(words[found.state])
    if found.progress and found.state == "running":
        click.echo(f"  {found.progress}")
    if found.trials:
        click.echo(f"  {found.trials} trials done")
    for step, job in found.remote.items():
        click.echo(f"  job {job} of `{step}` was submitted and is not known to have ended")
    if found.state == "died" and found.command:
        click.echo(f"to go on with it:\n  {_command('fetch', output)}")
    elif found.state == "died":
        click.echo(CONTINUES)


@runs.command()
@_OUTPUT
@click.option("--step", help="Of this step alone.")
@options.json_option
def logs(output: Path, step: str | None, as_json: bool) -> None:
    """Print what the steps of the run in OUTPUT, and its driver if it is detached, have said."""
    if as_json:
        render.show_json({file.stem: file.read_text(errors="replace") for file in api.logs(output, step)})
        return
    for file in api.logs(output, step):
        click.echo(f"== {file.name}")
        click.echo(file.read_text(encoding="utf-8", errors="replace").rstrip())


@runs.command()
@_OUTPUT
@options.json_option
def cancel(output: Path, as_json: bool) -> None:
    """Stop the run in OUTPUT, and its job elsewhere; the same recipe continues it."""
    if not api.cancel(output):
        raise BadValue(f"nothing drives the run in `{output}`", hint=_command("status", output))
    click.echo("stopping", err=True)
    if as_json:
        render.show_json({"output": str(output), "stopping": True})


@runs.command()
@_OUTPUT
@options.json_option
def fetch(output: Path, as_json: bool) -> None:
    """Go on with the run in OUTPUT whose driver went away: bring home what its jobs have made, and do the rest."""
    found = api.standing(output)
    if found.state == "running":
        raise BadValue(
            f"there is nothing to fetch: the run in `{output}` goes on", hint=_command("status", output)
        )
    if found.state == "ended":
        what = f"there is nothing to fetch: the run in `{output}` has ended ({found.verdict})"
        raise BadValue(what, hint=_command("status", output))
    if not found.command:
        what = f"it cannot be fetched: the driver of the run in `{output}` left no word of its command"
        raise BadValue(what, hint=CONTINUES)
    command = [word for word in found.command if word not in {"--detach", "--json"}]
    command += ["--json"] if as_json else []
    # Where the command names no store, it was the one of its environment then, which may be another now.
    environment = os.environ | ({"PICUAL_STORE": found.store} if found.store else {})
    ended = subprocess.run(command, cwd=found.folder, env=environment, check=False)
    click.get_current_context().exit(ended.returncode)


def _command(verb: str, output: Path) -> str:
    return shlex.join(["picual", "runs", verb, str(output)])
