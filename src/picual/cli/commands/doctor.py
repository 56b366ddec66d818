"""``picual doctor``: what this machine has, and what is missing for what."""

from __future__ import annotations

from pathlib import Path

import click

from picual import api
from picual.cli import options, render


@click.command()
@options.store_option
@options.json_option
def doctor(store: Path | None, as_json: bool) -> None:
    """Show this machine, its execution providers, and which parts of Picual can be used on it."""
    found = api.doctor(store)
    if as_json:
        render.show_json(found)
        return
    machine, libraries = found["machine"], found["libraries"]
    rows = [
        ["picual", f"{found['picual']}, Python {found['python']}, {found['platform']}"],
        ["processor", f"{machine['cores']} cores, {' '.join(machine['instructions']) or 'no vector extensions'}"],
        ["memory", f"{machine['memory_free'] / 1e9:.1f} GB free of {machine['memory'] / 1e9:.1f} GB"],
        ["store", f"{found['store']['folder']}, {found['store']['disk_free'] / 1e9:.1f} GB free"],
        ["providers", ", ".join(found["providers"])],
        ["hub", "HF_TOKEN is set" if found["hub_token"] else "no token: public models only"],
        *([name, version] for name, version in libraries.items() if version),
    ]
    click.echo(render.columns(rows) + "\n")
    for part in found["passes"]:
        if part["missing"]:
            click.echo(f"{part['pass']}: {', '.join(part['missing'])} missing; {part['hint']}")
        else:
            click.echo(f"{part['pass']}: ready")
