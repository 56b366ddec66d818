"""The pieces of work of a run, each with its key: what a pass prepares, the pass, a check, a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual.engine.metrics import Reference, compared_with, fields_with_models, metric_ingredients
from picual.engine.piece import Piece, data_files, metric_files, model_folders, pass_folders, places
from picual.engine.results import Stage
from picual.engine.verification import GATE_VERSION
from picual.passes.base import Promise
from picual.plan import FORMAT, Plan, PlannedMetric, PlannedStep
from picual.sources.digests import DigestMemory
from picual.space import values_of


def pass_piece(plan: Plan, step: PlannedStep, given: Stage, prepared: Any = None) -> Piece:
    """Return the piece that applies a pass.

    Args:
        plan: That the step is of.
        step: The step.
        given: What it is applied to.
        prepared: What its preparation made: a folder, or the number of an earlier link of the same job.
    """
    assert step.ingredients is not None
    folders = [Path(prepared)] if isinstance(prepared, str) else []
    payload = {**_payload(plan, step, given), "prepared": prepared}
    memory = 0 if step.forecast is None else step.forecast.memory
    reads = places(*_read_by(step, given), folders)
    return Piece("pass", step.name, step.label, step.ingredients, payload, reads, step.site, memory=memory)


def preparation(plan: Plan, step: PlannedStep, given: Stage) -> Piece | None:
    """Return the piece that makes what a pass shares among models, or None where it shares nothing."""
    a_pass = step.a_pass
    wanted = a_pass.preparation(given.model, plan.recipe.target)
    if wanted is None:
        return None
    ingredients = {
        "format": FORMAT, "prepare": a_pass.name, "version": a_pass.version, "content": dict(wanted),
        "libraries": {name: step.site.version_of(name) for name in a_pass.libraries},
    }  # fmt: skip
    label = f"prepare {a_pass.name}"
    payload = _payload(plan, step, given)
    return Piece(
        "prepare", f"prepare {step.name}", label, ingredients, payload, places(*_read_by(step, given)), step.site
    )


def _payload(plan: Plan, step: PlannedStep, given: Stage) -> dict[str, Any]:
    return {
        "pass": step.a_pass.name,
        "fields": values_of(step.a_pass),
        "model": given.model.to_wire(),
        "target": plan.recipe.target.to_wire(),
        "data": {name: config.to_wire() for name, config in step.data.items()},
    }


def _read_by(step: PlannedStep, given: Stage) -> list[list[Path]]:
    return [model_folders(given.model), data_files(step.data), pass_folders(step.a_pass)]


def check_piece(plan: Plan, promise: Promise, step: PlannedStep, given: Stage, made: Stage) -> Piece:
    """Return the piece that checks what a step promises of what it made."""
    wire = promise.to_wire()
    ingredients = {
        "format": FORMAT, "gate": GATE_VERSION, "promise": wire, "given": given.key,
        "made": made.key, "threads": plan.measured_at.threads, "device": plan.measured_at.device,
    }  # fmt: skip
    payload = {"promise": wire, "given": given.model.to_wire(), "made": made.model.to_wire()}
    name = type(promise).__name__
    reads = places(model_folders(given.model), model_folders(made.model))
    return Piece(
        "verify", f"verify {step.name}: {name}", f"verify {name}", ingredients, payload, reads, plan.measured_at
    )


def metric_piece(
    plan: Plan, planned: PlannedMetric, stage: Stage, digests: DigestMemory, known: Reference
) -> Piece:
    """Return the piece that takes a metric; a timing is taken in turn with that of the input model."""
    metric = planned.metric
    of_model = metric.scope == "model"
    against = known.get("baseline") if metric.timed else None
    if against is not None and against.key == stage.key:
        against = None
    ingredients = metric_ingredients(planned, stage, plan, digests, known=known, against=against)
    payload: Mapping[str, Any] = {
        "metric": metric.name,
        "fields": fields_with_models(metric, known, digests),
        "model": stage.model.to_wire() if of_model else None,
        "against": against.model.to_wire() if against is not None else None,
        "target": plan.recipe.target.to_wire(),
        "data": {name: config.to_wire() for name, config in planned.data.items()},
        "trust": plan.recipe.trust,
    }
    label = f"{planned.name} of {stage.name}" if of_model else planned.name
    stages = [stage, against, *compared_with(metric, known, digests).values()]
    compared = [model_folders(one.model) for one in stages if one is not None]
    reads = places(*compared, data_files(planned.data), metric_files(metric))
    return Piece(
        "evaluate", label, f"evaluate {metric.name}", ingredients, payload, reads, plan.measured_at, metric.timed
    )
