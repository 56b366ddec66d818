"""Several jobs as one: steps with what they prepare and are checked by, measurements; done where one job is dear.

A machine of a cloud takes minutes to begin; what follows from one another is done there in one go. Each link is a
job of its own kind with a folder of its own, ``out/N``, and its result is published like any other. Where a link
needs what an earlier one made, its payload says ``{"made_by": N}`` in the place of a model, ``{"out_of": N}`` in
the place of a folder.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.errors import PicualError
from picual.executors.events import is_event
from picual.executors.job import TASKS
from picual.models import Model, model_from_wire


@dataclass(frozen=True)
class Promised(Model):
    """The model that an earlier link of the same job will have made, when its turn has come."""

    path: Path = Path()
    number: int = 0  # of that link

    def to_wire(self, folder: Path | None = None, given: Model | None = None) -> dict[str, Any]:
        """Return what a payload says in the place of that model."""
        del folder, given
        return {"made_by": self.number}


def run(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Do the links in turn; return ``{"results": [{"value", "seconds"} or {"error"}]}``.

    The last one is the first that fails, or whose check is not passed: what would follow stands on it.

    Args:
        payload: ``links``: mappings of ``kind``, ``label`` and ``payload``.
        folder: Of the job; checkpoints of link N are in ``scratch/N``.
        seed: For every random choice.
        threads: For every thread pool.
        on_event: Gets the events of every link, under its own label.
    """
    results: list[dict[str, Any]] = []
    for number, link in enumerate(payload["links"]):
        place = _place(folder, number)
        started = time.monotonic()
        module, _, function = TASKS[link["kind"]].partition(":")
        task = getattr(importlib.import_module(module), function)
        say = _Told(on_event, link["label"], place, folder)
        try:
            resolved = _resolved(link["payload"], payload["links"], results, folder)
            value = task(resolved, folder=place, seed=seed, threads=threads, on_event=say)
        except PicualError as error:
            return {"results": [*results, {"error": error.to_wire()}]}
        finally:
            (place / "scratch").unlink()  # only the name: what it holds is the whole job's
            (place / "events.jsonl").unlink()
        results.append({"value": value, "seconds": round(time.monotonic() - started, 3)})
        if not all(check["passed"] for check in value.get("checks", ())):
            break
    return {"results": results}


def content_of(folder: Path, number: int) -> Path:
    """Return the folder of what a link made."""
    return folder / "out" / str(number) / "out"


def _place(folder: Path, number: int) -> Path:
    """Make the folder of a link; its checkpoints lie with those of the whole job, which are kept while it runs."""
    place = folder / "out" / str(number)
    (place / "out").mkdir(parents=True, exist_ok=True)
    kept = folder / "scratch" / str(number)
    kept.mkdir(parents=True, exist_ok=True)
    if not (place / "scratch").exists():
        (place / "scratch").symlink_to(kept, target_is_directory=True)
    return place


class _Told:
    """Hands events on under a link's own label, and keeps them where its task looks for them."""

    def __init__(
        self, on_event: Callable[[str, Mapping[str, Any]], None], label: str, place: Path, folder: Path
    ) -> None:
        self._on_event, self._label, self._file = on_event, label, place / "events.jsonl"
        before = (
            (folder / "events.jsonl").read_text(encoding="utf-8") if (folder / "events.jsonl").exists() else ""
        )
        lines = [line for line in before.splitlines(keepends=True) if is_event(line)]
        own = [line for line in lines if json.loads(line).get("step") == label]
        self._file.write_text("".join(own), encoding="utf-8")

    def __call__(self, name: str, values: Mapping[str, Any]) -> None:
        """Hand an event on, and keep it."""
        self._on_event(name, {**values, "step": self._label})
        with self._file.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps({"step": self._label, "event": name, **values}, ensure_ascii=False) + "\n")


def _resolved(payload: Any, links: Any, results: list[dict[str, Any]], folder: Path) -> Any:
    """Return a payload with what earlier links made in the place of their numbers."""
    if isinstance(payload, Mapping):
        if set(payload) == {"made_by"}:
            return _model(int(payload["made_by"]), links, results, folder).to_wire()
        if set(payload) == {"out_of"}:
            return str(content_of(folder, int(payload["out_of"])))
        return {key: _resolved(item, links, results, folder) for key, item in payload.items()}
    return payload


def _model(number: int, links: Any, results: list[dict[str, Any]], folder: Path) -> Model:
    wire = links[number]["payload"]["model"]
    earlier = wire.get("made_by")
    given = model_from_wire(wire, Path("/")) if earlier is None else _model(int(earlier), links, results, folder)
    return model_from_wire(results[number]["value"]["model"], content_of(folder, number), given)
