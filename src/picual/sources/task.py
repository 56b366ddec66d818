"""The job ``fetch``: bring a model that is not on this machine, or not in a form that passes read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from picual.sources.resolve import resolve


def run(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Fetch into ``folder/out`` and return ``{"model": wire form relative to it, "notes": [...]}``.

    Args:
        payload: ``source``: the arguments of ``resolve`` by name.
        folder: Of the job.
        seed: Not used: fetching is not random.
        threads: For every thread pool.
        on_event: Gets ``progress`` events.
    """
    given = dict(payload["source"])
    source = resolve(given.pop("uri"), **{**given, "folder": Path(given["folder"])})
    on_event("progress", {"done": 0, "total": 1, "note": "fetching"})
    out = folder / "out"
    model = source.fetch(out)
    on_event("progress", {"done": 1, "total": 1, "note": "fetched"})
    return {"model": model.to_wire(out), "notes": list(source.notes)}
