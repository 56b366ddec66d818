"""The job ``evaluate``: one metric of one model, from its wire form to plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from picual import _lazy
from picual.data.base import DataConfig
from picual.errors import StepFailed
from picual.hardware import Target
from picual.metrics import registry
from picual.metrics.base import MetricContext
from picual.models import Model, model_from_wire


def run(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Measure and return ``{"values": {...}}``.

    Args:
        payload: ``metric`` (name), ``fields``, ``model`` (wire form with absolute paths, or None for a metric
            of the data alone), ``target`` (wire form), ``data`` (wire forms by name); and where they matter
            ``against`` (wire form of the model that timings are taken in turn with) and ``trust``.
        folder: Of the job.
        seed: For every random choice.
        threads: For every thread pool.
        on_event: Gets ``progress`` events.
    """
    metric = registry.build(payload["metric"], payload.get("fields", {}))
    for module in metric.imports:
        _lazy.need(module, extra=metric.extra, by=metric.name)
    wire, against = payload.get("model"), payload.get("against")
    context = MetricContext(
        target=Target(**payload.get("target", {})),
        data={name: DataConfig.from_wire(entry) for name, entry in payload.get("data", {}).items()},
        seed=seed,
        threads=threads,
        scratch=folder / "scratch",
        folder=folder / "out",
        against=None if against is None else model_from_wire(against, folder),
        trust=bool(payload.get("trust", False)),
        on_progress=lambda done, total, note: on_event("progress", {"done": done, "total": total, "note": note}),
    )
    # A metric of the data alone looks at no model.
    model = Model(Path()) if wire is None else model_from_wire(wire, folder)
    return {"values": plain(metric.measure(model, context), metric.name)}


def plain(value: Any, by: str) -> Any:
    """Return ``value`` with every number a Python one, as JSON wants it.

    Raises:
        StepFailed: A number is not finite: the model is broken, and JSON has no word for it.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, by) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, by) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise StepFailed(f"`{by}` came out as {number}: the model's logits are not finite", hint="export it again")
    return number
