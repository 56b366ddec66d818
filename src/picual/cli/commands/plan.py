"""``picual plan``: what a run would do."""

from __future__ import annotations

import json
from typing import Any

import click

from picual import api
from picual.cli import options


@click.command()
@options.recipe_options
@click.pass_context
def plan(ctx: click.Context, /, **given: Any) -> None:
    """Show what RECIPE would run, what is in the store and why not, and what it needs."""
    a_plan = api.plan(
        options.recipe_of(given), store=given["store"], offline=given["offline"], **options.changes_of(given)
    )
    obstacles = api.obstacles(a_plan, store=given["store"], output=given["output"])
    if given["as_json"]:
        steps = [
            {"number": s.number, "name": s.name, "pass": s.a_pass.name, "key": s.key, "cached": s.cached,
             "why": s.why, "memory": s.forecast and s.forecast.memory, "disk": s.forecast and s.forecast.disk,
             "seconds": s.forecast and s.forecast.seconds}
            for s in a_plan.steps
        ]  # fmt: skip
        found = [obstacle.to_wire() for obstacle in obstacles]
        totals = {"memory": a_plan.memory, "disk": a_plan.disk, "seconds": a_plan.seconds}
        click.echo(json.dumps({"steps": steps, "obstacles": found, **totals}, indent=2))
    else:
        for step in a_plan.steps:
            needs = step.forecast
            cost = (
                f"{needs.memory / 1e9:5.1f} GB  {needs.disk / 1e9:5.1f} GB  {needs.seconds:5.0f} s"
                if needs
                else ""
            )
            click.echo(f"{step.number}  {step.name:20} {'cached' if step.cached else 'run':7} {cost}  {step.why}")
        click.echo(
            f"to run: memory {a_plan.memory / 1e9:.1f} GB of {a_plan.machine.memory_free / 1e9:.1f} GB free,"
            f" disk {a_plan.disk / 1e9:.1f} GB, about {a_plan.seconds:.0f} s"
        )
        for obstacle in obstacles:
            click.echo(f"error: {obstacle}", err=True)
    if obstacles:
        ctx.exit(obstacles[0].exit_code)
