"""After everything else: the model in the output folder becomes a version of a model in a registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from picual import __version__, fingerprint
from picual.engine.results import RunResult
from picual.engine.work import Work
from picual.errors import EnvironmentFault, Interrupted, NotRegistered, PicualError
from picual.registries.base import FinishedModel, Registered, Registry
from picual.sources.azure_address import shown

STEP = "register"  # under which its progress is told


def register(work: Work, result: RunResult) -> None:
    """Register the model of a run that went well, if its recipe says where.

    Raises:
        NotRegistered: It could not be; the model stays where it is, and the same run does only this again.
        Interrupted: The user stopped it.
    """
    registry = result.plan.registry
    if registry is None:
        return
    try:
        found = _registered(work, registry, result)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted while the model was registered", hint="the same command continues it"
        ) from None
    except PicualError as error:
        raise NotRegistered(
            f"the model is verified and in its place, but not registered: {error.what}",
            where=error.where, hint=error.hint or "the same command tries again, and does nothing else",
        ) from error  # fmt: skip
    result.registered = found
    result.worked = result.worked or found.new
    work.events.emit("registered", name=found.name, version=found.version, address=found.address, new=found.new)


def _registered(work: Work, registry: Registry, result: RunResult) -> Registered:
    if work.offline:
        raise EnvironmentFault(
            "`--offline` forbids it", hint="the same command without `--offline` does that and nothing else"
        )
    model = finished(result)

    def told(done: int, total: int) -> None:
        note = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB sent"
        work.events.emit("progress", step=STEP, done=done, total=total, note=note)

    return registry.register(model, told)


def finished(result: RunResult) -> FinishedModel:
    """Return the model of a run with what its manifest says of it, and where it came from."""
    manifest: Mapping[str, Any] = json.loads((result.output / "manifest.json").read_text(encoding="utf-8"))
    return FinishedModel(
        folder=result.output / "model", files=manifest["files"], key=result.stages[-1].key,
        lineage=lineage(result, manifest["recipe"]),
    )  # fmt: skip


def lineage(result: RunResult, made_by: Mapping[str, Any]) -> dict[str, str]:
    """Return where a model came from: short texts by name, one a step.

    Args:
        result: Of the run that found it, or made it.
        made_by: The recipe that made it: this one may be younger.
    """
    recipe = result.plan.recipe
    steps = {
        f"picual_step_{number}": f"{step.name} ({step.pass_name}) {step.key}"
        for number, step in enumerate(result.steps, 1)
    }
    return {
        "picual_version": __version__,
        "picual_source": shown(recipe.model.uri),
        **({} if recipe.model.adapter is None else {"picual_adapter": shown(recipe.model.adapter)}),
        "picual_source_key": str(result.plan.source_key or ""),
        **steps,
        "picual_recipe": fingerprint.digest(made_by),
        "picual_verified": str(result.placed).lower(),
    }
