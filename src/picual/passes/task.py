"""The jobs ``prepare`` and ``pass``: one pass on one model, from its wire form to that of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from picual import _lazy
from picual.data.base import DataConfig
from picual.errors import BrokenPromise, StepsDoNotFit
from picual.hardware import Target
from picual.models import Model, model_from_wire
from picual.passes import registry
from picual.passes.base import Pass, PassContext
from picual.passes.curves import curves_of


def run(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Run the pass; return ``model`` (wire form relative to folder/out), ``journal``, ``metrics`` and ``curves``.

    Args:
        payload: ``pass`` (name), ``fields``, ``model`` (wire form with absolute paths), ``target`` and ``data``
            (wire forms); maybe ``prepared``, a folder.
        folder: Of the job: the result goes to ``out`` in it, checkpoints to ``scratch``.
        seed: For every random choice.
        threads: For every thread pool.
        on_event: Gets ``progress`` events and those of the pass.

    Raises:
        StepsDoNotFit: The pass does not take this kind of model.
        BrokenPromise: What the pass returned is not what it produces, or lies elsewhere.
    """
    a_pass, given, context = _begun(payload, folder, seed, threads, on_event)
    a_pass.check(given, context.target)
    made = a_pass.run(given, context)
    _keep_the_contract(a_pass, made, given, context.folder)
    return {
        "model": made.to_wire(context.folder, given),
        "journal": context.journal,
        "metrics": context.metrics,
        "curves": curves_of(folder / "events.jsonl"),
    }


def prepare(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Do what a pass shares among models; arguments as for ``run``."""
    a_pass, given, context = _begun(payload, folder, seed, threads, on_event)
    a_pass.check(given, context.target)
    a_pass.prepare(given, context)
    return {}


def _begun(
    payload: Mapping[str, Any], folder: Path, seed: int, threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> tuple[Pass[Any, Any], Model, PassContext]:  # fmt: skip
    a_pass = registry.build(payload["pass"], payload.get("fields", {}))
    for module in a_pass.imports:
        if not _lazy.is_installed(module):
            raise _lazy.missing(module, extra=a_pass.extra, by=a_pass.name)
    given = model_from_wire(payload["model"], Path("/"))
    if not isinstance(given, a_pass.accepts):
        taken = " or ".join(one.title for one in get_args(a_pass.accepts) or (a_pass.accepts,))
        raise StepsDoNotFit(f"`{a_pass.name}` takes {taken}, and this is {given.title}")
    prepared = payload.get("prepared")
    context = PassContext(
        folder=folder / "out",
        scratch=folder / "scratch",
        prepared=None if prepared is None else Path(prepared),
        target=Target(**payload.get("target", {})),
        data={name: DataConfig.from_wire(wire) for name, wire in payload.get("data", {}).items()},
        seed=seed,
        threads=threads,
        on_progress=lambda done, total, note: on_event("progress", {"done": done, "total": total, "note": note}),
        on_event=on_event,
    )
    for place in (context.folder, context.scratch):
        place.mkdir(parents=True, exist_ok=True)
    return a_pass, given, context


def _keep_the_contract(a_pass: Pass[Any, Any], made: Any, given: Model, folder: Path) -> None:
    hint = f"this is a fault in `{a_pass.name}`: report it to whoever wrote it"
    if not isinstance(made, a_pass.produces):
        title = made.title if isinstance(made, Model) else type(made).__name__
        raise BrokenPromise(f"`{a_pass.name}` produces {a_pass.produces.title}, and returned {title}", hint=hint)
    if made != given and not made.path.is_relative_to(folder):
        raise BrokenPromise(
            f"`{a_pass.name}` returned a model outside the folder it was given", where=str(made.path), hint=hint
        )
    if not made.path.exists():
        raise BrokenPromise(f"`{a_pass.name}` returned a model that is not there", where=str(made.path), hint=hint)
