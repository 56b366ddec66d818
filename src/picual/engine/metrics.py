"""Which models a metric is taken of, and what its result is remembered by."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picual.engine.results import Stage
from picual.errors import BadValue
from picual.metrics.base import Metric
from picual.models.detect import open_folder
from picual.plan import FORMAT, Plan, PlannedMetric, data_ingredients
from picual.sources.digests import DigestMemory
from picual.space import fields_of, values_of

LIBRARIES = ("torch", "transformers", "onnxruntime", "onnxruntime-genai", "scikit-learn", "lm-eval")
Reference = Mapping[str, Stage]  # by the name that a metric may give


def wanted(metric: Metric, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages to measure: each, the result alone where a reference is compared with, the data once."""
    if metric.scope == "data":
        return list(stages[:1])
    return list(stages) if metric.has_reference_values else list(stages[-1:])


def fields_with_models(metric: Metric, known: Reference, digests: DigestMemory) -> dict[str, Any]:
    """Return a metric's fields on the wire, with the models it names in the place of their names."""
    fields = values_of(metric)
    return fields | {name: stage.model.to_wire() for name, stage in compared_with(metric, known, digests).items()}


def compared_with(metric: Metric, known: Reference, digests: DigestMemory) -> dict[str, Stage]:
    """Return the models that a metric compares with, by field: stages of the run, or folders."""
    found = {}
    for field in _roles(metric, "model"):
        name = getattr(metric, field)
        if not isinstance(name, str):
            continue
        if name not in known and not Path(name).is_dir():
            hint = f"a folder with a model, or one of {', '.join(known) or 'the stages of a run'}"
            raise BadValue(f"`{metric.name}` has no model `{name}` to compare with", hint=hint)
        found[field] = known[name] if name in known else _folder(Path(name), digests)
    return found


def _folder(folder: Path, digests: DigestMemory) -> Stage:
    return Stage(name=str(folder), key=digests.folder(folder), model=open_folder(folder))


def metric_ingredients(
    planned: PlannedMetric, stage: Stage, plan: Plan, digests: DigestMemory, *, known: Reference,
    against: Stage | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what identifies one measurement. A timing is of one host and never reused on another."""
    metric = planned.metric
    fields = values_of(metric)
    for name in _roles(metric, "data"):
        if fields[name] is not None:
            fields[name] = data_ingredients(planned.data[fields[name]], digests)
    fields |= {name: compared.key for name, compared in compared_with(metric, known, digests).items()}
    for name in _roles(metric, "code"):
        if fields[name] is not None:
            fields[name] = _content(Path(fields[name]), digests)
    if isinstance(fields.get("file"), str):  # a text counts by what it says, not by where it lies
        fields["file"] = digests.of(Path(fields["file"]))
    return {
        "format": FORMAT,
        "metric": metric.name,
        "version": metric.version,
        "fields": fields,
        "model": stage.key if metric.scope == "model" else None,
        "against": against.key if against is not None else None,
        "threads": plan.measured_at.threads,
        "device": plan.measured_at.device,
        "host": platform.node() if metric.timed else None,
        "libraries": {name: plan.measured_at.version_of(name) for name in LIBRARIES},
    }


def _content(path: Path, digests: DigestMemory) -> str:
    """Return the digest of a file, or of all files in a folder."""
    if not path.is_dir():
        return digests.of(path)
    return digests.folder(path, sorted(file for file in path.rglob("*") if file.is_file()))


def _roles(metric: Metric, role: str) -> list[str]:
    return [item.name for item in fields_of(metric) if item.metadata.get("role") == role]
