"""The models of a run that are measured: the input, the last before precision was lost, the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from picual.engine.results import Stage, StepResult
from picual.plan import Plan, PlannedStep


@dataclass(frozen=True)
class Made:
    """One step that was run: what went in and what came out."""

    step: PlannedStep
    done: StepResult
    given: Stage
    stage: Stage


def stages_of(plan: Plan, source: Stage, made: Sequence[Made]) -> list[Stage]:
    """Return the stages that are measured, each under its name; so far as the steps have come."""
    stages = [source]
    stages += [
        replace(one.given, name="unquantized") for n, one in enumerate(made) if n == plan.unquantized and n > 0
    ]
    finished = len(made) == len(plan.steps) > 0
    return [*stages, replace(made[-1].stage, name="final")] if finished else stages


def by_name(plan: Plan, stages: Sequence[Stage]) -> dict[str, Stage]:
    """Return the stages that a goal or a metric may name.

    ``unquantized`` is the input where the first step compresses, and the result where none does.
    """
    unquantized = stages[0] if plan.unquantized == 0 else stages[-1]
    return {"unquantized": unquantized, **{stage.name: stage for stage in stages}}
