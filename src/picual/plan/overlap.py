"""Rows that a model is trained on and then judged by: their number, for a warning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from picual.data.base import DataConfig
from picual.data.files import are_small, rows
from picual.data.split import holdout_rows, train_rows
from picual.passes.base import Pass
from picual.plan.values import PlannedMetric, PlannedStep
from picual.recipe.schema import Note
from picual.space import fields_of


def overlap_warnings(steps: Sequence[PlannedStep], metrics: Sequence[PlannedMetric]) -> tuple[Note, ...]:
    """Return a warning for each metric whose rows a step has trained on, with the count."""
    found = []
    for step in steps:
        if not _trains(step.a_pass):
            continue
        learned = {_key(row) for config in step.data.values() for row in _train(config)}
        for planned in metrics if learned else ():
            if planned.metric.scope != "model":
                continue
            asked = [_key(row) for config in planned.data.values() for row in _asked(config, planned.metric)]
            shared = sum(key in learned for key in asked)
            if shared:
                text = f"{shared} of {len(asked)} rows were trained on by `{step.name}`: the number flatters it"
                found.append(Note(path=f"metrics.{planned.name}", kind="warning", text=text))
    return tuple(found)


def _trains(a_pass: Pass[Any, Any]) -> bool:
    return any(item.metadata.get("role") == "training" for item in fields_of(a_pass))


def _train(config: DataConfig) -> Iterable[Mapping[str, Any]]:
    found = _rows(config)
    return train_rows(found, config) if config.holdout and found else found


def _asked(config: DataConfig, metric: object) -> Iterable[Mapping[str, Any]]:
    """Return the rows that a metric reads: what its ``split`` says, where it has one."""
    found, split = _rows(config), getattr(metric, "split", "all")
    if split == "holdout" and config.holdout and found:
        return holdout_rows(found, config)
    return train_rows(found, config) if split == "train" and found else found


def _rows(config: DataConfig) -> list[Mapping[str, Any]]:
    return list(rows(config)) if are_small(config) else []


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)
