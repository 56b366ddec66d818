"""Curves of a training from the events of its job: a run that was killed and went on has them whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

EVENTS = ("loss", "eval_loss")
KEPT = ("loss", "eval_loss", "learning_rate")


def curves_of(events: Path) -> dict[str, list[list[float]]]:
    """Return [step, value] pairs by curve, in the order of the steps; a step done twice counts as it was last."""
    found: dict[str, dict[int, float]] = {}
    for event in _events(events):
        for name in KEPT:
            value = event.get(name)
            if isinstance(value, int | float):
                found.setdefault(name, {})[int(event["step"])] = float(value)
    return {name: [[step, points[step]] for step in sorted(points)] for name, points in found.items()}


def _events(file: Path) -> Iterator[Mapping[str, Any]]:
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        if event.get("event") in EVENTS and isinstance(event.get("step"), int):
            yield event
