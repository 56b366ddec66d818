"""What on this machine would stop a run: missing packages, provider, host, memory, disk."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picual import _lazy, hardware
from picual.errors import DeviceUnavailable, EnvironmentFault, NotEnough, PicualError, UnreadableModel
from picual.executors.host import PIP
from picual.executors.local import Local
from picual.executors.wheel import requirements_of
from picual.hardware import Machine
from picual.metrics.base import Metric
from picual.models import Model
from picual.passes.base import Pass
from picual.plan.sites import Site
from picual.plan.values import Plan, PlannedStep
from picual.recipe.schema import Recipe
from picual.sources.azure_client import BY, EXTRA, PACKAGES
from picual.store.local import Store

MEMORY_RESERVE = 0.05  # share of this machine's memory that is left to the system


def obstacles(plan: Plan, store: Store, output: Path) -> list[PicualError]:
    """Return what on this machine would stop the run: missing packages, provider, host, memory, disk."""
    found: list[PicualError] = []
    recipe = plan.recipe
    pending = [step for step in plan.steps if not step.cached]
    for site in plan.sites.values():
        place = str(recipe.hosts[site.name].place)
        found += [error.located(place) for error in site.host.obstacles(site.state)]
    needs: list[tuple[Pass[Any, Any] | Metric, Site]] = [(step.a_pass, step.site) for step in pending]
    needs += [(one.metric, plan.measured_at) for one in plan.metrics]
    for needed, site in needs:
        absent = [module for module in needed.imports if not site.host.has(module, site.state)]
        found += [_absent(absent, needed, site)] if absent else []
    if plan.search is not None and not _lazy.is_installed("optuna"):
        found.append(_lazy.missing("optuna", extra="search", by="search"))
    if recipe.tracking is not None and not _lazy.is_installed("mlflow"):
        found.append(_lazy.missing("mlflow", extra="mlflow", by="tracking"))
    if plan.registry is not None:
        found += plan.registry.obstacles()
    found += _data(recipe)
    if isinstance(plan.measured_at.host, Local):
        try:
            recipe.target.require_here()
        except DeviceUnavailable as error:
            found.append(error)
    if plan.model is not None and not plan.source.fetches:
        found += _examine(plan.model)
    if plan.model is None:
        found += plan.source.obstacles()
    return [*found, *_output(output), *_fit(plan, pending, store, output)]


def _absent(modules: Sequence[str], needed: Pass[Any, Any] | Metric, site: Site) -> PicualError:
    """Say what a pass or metric lacks: Picual's extra here, in another Python only what is imported there."""
    error = _lazy.missing(modules[0], extra=needed.extra, by=needed.name)
    if isinstance(site.host, Local):
        return error
    if (pip := site.host.pip(site.state)) != PIP:
        error.hint = f"{pip} {shlex.join(requirements_of(modules, needed.extra))}"
    return error.located(f"host {site.name}")


def _data(recipe: Recipe) -> list[PicualError]:
    """Name the package that data kept elsewhere needs."""
    remote = any(config.remote() for config in recipe.data.values())
    absent = [name for name in PACKAGES if remote and not _lazy.is_installed(name)]
    return [_lazy.missing(name, extra=EXTRA, by=BY) for name in absent[:1]]


def _output(output: Path) -> list[PicualError]:
    """Say when nothing can be written to the output folder."""
    nearest = next(folder for folder in (output, *output.parents) if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return []
    what = "cannot be written to" if nearest.is_dir() else "is a file"
    return [
        EnvironmentFault(f"the output folder cannot be made: `{nearest}` {what}", hint="give another: `-o DIR`")
    ]


def _examine(model: Model) -> Sequence[PicualError]:
    from picual.sources.folder import examine

    try:
        examine(model)
    except UnreadableModel as error:
        return [error]
    return []


def _fit(plan: Plan, pending: Sequence[PlannedStep], store: Store, output: Path) -> list[PicualError]:
    found: list[PicualError] = list(shortages(plan, pending))
    last = plan.steps[-1].forecast if plan.steps else None
    for folder, needed, hint in (
        (store.root, plan.disk, "picual store prune, or another disk: `--store DIR`"),
        (output, last.disk if last and pending else 0, "another disk: `-o DIR`"),
    ):
        free = hardware.disk_free(folder)
        if needed > free:
            what = f"the run writes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
            found.append(NotEnough(what, where=str(folder), hint=hint))
    return found


def shortages(plan: Plan, steps: Sequence[PlannedStep]) -> list[PicualError]:
    """Return which of the steps need more memory than may be used here."""
    allowed = min(memory_allowed(plan.machine), plan.recipe.target.memory or plan.machine.memory)
    return [
        NotEnough(
            f"step {step.number} `{step.name}` needs about {step.forecast.memory / 1e9:.1f} GB of memory;"
            f" {allowed / 1e9:.1f} GB are free here",
            where=str(step.place),
            hint="run on a machine with more memory, or choose a smaller model",
        )
        for step in steps
        if step.forecast is not None and step.forecast.memory > allowed and not step.site.host.elsewhere
    ]


def memory_allowed(machine: Machine) -> int:
    """Return the anonymous bytes a step may hold on this machine."""
    return int(machine.memory_free - MEMORY_RESERVE * machine.memory)
