"""Which models a metric is taken of, and what its result is remembered by."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from picual import _lazy
from picual.engine.results import Stage
from picual.metrics.base import Metric
from picual.plan import FORMAT, Plan, PlannedMetric, data_ingredients
from picual.sources.digests import DigestMemory
from picual.space import fields_of, values_of

LIBRARIES = ("torch", "transformers", "onnxruntime", "onnxruntime-genai", "scikit-learn")


def wanted(metric: Metric, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages to measure: each model once, however many names it has; the data alone once."""
    if metric.scope == "data":
        return list(stages[:1])
    return list(stages)


def metric_ingredients(planned: PlannedMetric, stage: Stage, plan: Plan, digests: DigestMemory) -> dict[str, Any]:
    """Return what identifies one measurement. A timing is of one host and never reused on another."""
    metric = planned.metric
    fields = values_of(metric)
    for item in fields_of(metric):
        name = fields[item.name]
        if item.metadata.get("role") == "data" and name is not None:
            fields[item.name] = data_ingredients(planned.data[name], digests)
    return {
        "format": FORMAT,
        "metric": metric.name,
        "version": metric.version,
        "fields": fields,
        "model": stage.key if metric.scope == "model" else None,
        "threads": plan.threads,
        "device": plan.machine.device_class,
        "host": platform.node() if metric.timed else None,
        "libraries": {name: _lazy.version_of(name) for name in LIBRARIES},
    }
