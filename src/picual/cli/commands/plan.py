"""``picual plan``: what a run would do."""

from __future__ import annotations

from typing import Any

import click

from picual import api
from picual.cli import options, render
from picual.cli.progress import duration
from picual.passes.base import Forecast
from picual.plan import Plan


@click.command()
@options.recipe_options
@click.pass_context
def plan(ctx: click.Context, /, **given: Any) -> None:
    """Show what RECIPE would run, what is in the store and why not, and what it needs."""
    a_plan = api.plan(
        options.recipe_of(given), store=given["store"], offline=given["offline"], **options.changes_of(given)
    )
    obstacles = api.obstacles(a_plan, store=given["store"], output=given["output"])
    render.show_notes(a_plan.notes)
    if given["as_json"]:
        render.show_json({**_facts(a_plan), "obstacles": [obstacle.to_wire() for obstacle in obstacles]})
    else:
        _show(a_plan)
        for obstacle in obstacles:
            click.echo(f"error: {obstacle}", err=True)
    if obstacles:
        ctx.exit(obstacles[0].exit_code)


def _facts(a_plan: Plan) -> dict[str, Any]:
    steps = [
        {"number": step.number, "name": step.name, "pass": step.a_pass.name, "key": step.key,
         "cached": step.cached, "why": step.why, "memory": step.forecast and step.forecast.memory,
         "disk": step.forecast and step.forecast.disk, "seconds": step.forecast and step.forecast.seconds}
        for step in a_plan.steps
    ]  # fmt: skip
    notes = [vars(note) for note in a_plan.notes]
    return {
        "search": None
        if a_plan.search is None
        else {
            "sampler": a_plan.sampler,
            "trials": a_plan.search.trials,
            "candidates": a_plan.space.size,
            "space": a_plan.space.to_wire(),
        },
        "steps": steps,
        "register": None if a_plan.registry is None else a_plan.registry.title,
        "notes": notes,
        "memory": a_plan.memory,
        "disk": a_plan.disk,
        "seconds": a_plan.seconds,
    }


def _show(a_plan: Plan) -> None:
    rows = [["", "step", "", "memory", "disk", "time", "why"]]
    for step in a_plan.steps:
        state = "in the store" if step.cached else "run"
        rows.append([str(step.number), step.name, state, *_cost(step.forecast), step.why])
    click.echo(render.columns(rows))
    if a_plan.registry is not None:
        click.echo(f"then it is registered as {a_plan.registry.title}")
    if a_plan.search is not None:
        size = a_plan.space.size
        many = "candidates without end" if size is None else f"{size} candidates"
        click.echo(
            f"search: {many}, at most {a_plan.search.trials} are tried ({a_plan.sampler}); shown is the first"
        )
    if a_plan.profile is None:
        click.echo(f"memory, disk and time are known once `{a_plan.recipe.model.uri}` is fetched")
        return
    click.echo(
        f"to run: memory {a_plan.memory / 1e9:.1f} GB of {a_plan.machine.memory_free / 1e9:.1f} GB free,"
        f" disk {a_plan.disk / 1e9:.1f} GB, about {duration(a_plan.seconds)}"
    )


def _cost(needs: Forecast | None) -> list[str]:
    if needs is None:
        return ["-", "-", "-"]
    return [f"{needs.memory / 1e9:.1f} GB", f"{needs.disk / 1e9:.1f} GB", duration(needs.seconds)]
