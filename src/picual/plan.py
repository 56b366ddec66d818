"""Recipe to plan: every step with its key, forecast and cache state. A pure value; no model code, no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual import _lazy, fingerprint, hardware
from picual.data import files as data_files
from picual.data.base import DataConfig
from picual.errors import DeviceUnavailable, EnvironmentFault, NotEnough, PicualError, UnreadableModel
from picual.hardware import Machine
from picual.metrics import registry as metric_registry
from picual.metrics.base import Metric
from picual.models import HfAdapter, HfModel, Model, Profile
from picual.passes import registry as pass_registry
from picual.passes.base import Forecast, Pass
from picual.recipe.fields import coerce
from picual.recipe.schema import Note, Place, Recipe
from picual.sources.base import Source
from picual.sources.digests import DigestMemory
from picual.sources.resolve import resolve
from picual.space import fields_of, values_of
from picual.store.local import Store

FORMAT = 1  # part of every key: raised when what goes into a key changes meaning
MEMORY_RESERVE = 0.05  # share of this machine's memory that is left to the system
SMALL_DATA = 64 << 20  # bytes of data files that a plan hashes on the spot


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One pass with its key. ``key`` is None while the source's digest is not known: "hashed at run"."""

    number: int
    name: str
    a_pass: Pass[Any, Any]
    ingredients: Mapping[str, Any] | None
    key: str | None
    cached: bool
    why: str  # why it will run; empty when cached
    forecast: Forecast | None  # None: the sizes of its input are not known yet
    data: Mapping[str, DataConfig]
    place: Place = field(default_factory=Place)

    @property
    def label(self) -> str:
        """Name the kind of work in the store."""
        return f"pass {self.a_pass.name}"


@dataclass(frozen=True, kw_only=True)
class PlannedMetric:
    """One metric, and the data sets it reads."""

    name: str
    metric: Metric
    data: Mapping[str, DataConfig]
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do."""

    recipe: Recipe
    source: Source
    model: Model | None  # the input model, when its files are here
    source_ingredients: Mapping[str, Any] | None
    source_cached: bool
    profile: Profile | None
    steps: tuple[PlannedStep, ...]
    metrics: tuple[PlannedMetric, ...]
    machine: Machine
    threads: int

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the recipe's reader and the model's source have to say."""
        said = (Note(path="model", kind="defaulted", text=text) for text in self.source.notes)
        return (*self.recipe.notes, *said)

    @property
    def source_key(self) -> str | None:
        """The key of the input model."""
        return None if self.source_ingredients is None else fingerprint.digest(self.source_ingredients)

    @property
    def unquantized(self) -> int:
        """How many steps come before the first that loses precision: all of them if none does."""
        for index, step in enumerate(self.steps):
            if step.a_pass.compresses():
                return index
        return len(self.steps)

    @property
    def memory(self) -> int:
        """Peak bytes over the steps that will run."""
        return max((forecast.memory for forecast in self._to_run()), default=0)

    @property
    def disk(self) -> int:
        """Bytes that the steps which will run write."""
        return sum(forecast.disk for forecast in self._to_run())

    @property
    def seconds(self) -> float:
        """Rough time of the steps that will run."""
        return sum(forecast.seconds for forecast in self._to_run())

    def _to_run(self) -> list[Forecast]:
        return [step.forecast for step in self.steps if not step.cached and step.forecast is not None]


def make_plan(recipe: Recipe, store: Store, *, offline: bool = False, hash_source: bool = False) -> Plan:
    """Resolve a checked recipe into steps with keys.

    Args:
        recipe: Without problems (see ``recipe.check``).
        store: Where finished steps are looked up.
        offline: Whether the source may use the network.
        hash_source: Hash the input model's files if their digest is not remembered. Takes seconds a
            gigabyte, so only a run does it.
    """
    machine = hardware.machine()
    threads = recipe.threads or recipe.target.threads or machine.cores
    memory = DigestMemory(store.root / "digests.jsonl")
    spec = recipe.model
    source = resolve(
        spec.uri, revision=spec.revision, format=spec.format, adapter=spec.adapter,
        trust_remote_code=spec.trust_remote_code, options=spec.options, folder=Path(recipe.folder),
        offline=offline, trust=recipe.trust, digests=memory,
    )  # fmt: skip
    ingredients = source_ingredients(source, memory, hash_now=hash_source)
    model, cached = _input_model(source, ingredients, store)
    profile = profile_of(model)
    steps = _steps(recipe, store, memory, machine, threads, ingredients, profile)
    metrics = tuple(_metric(recipe, spec.name) for spec in recipe.metrics)
    return Plan(
        recipe=recipe, source=source, model=model, source_ingredients=ingredients, source_cached=cached,
        profile=profile, steps=steps, metrics=metrics, machine=machine, threads=threads,
    )  # fmt: skip


def source_ingredients(source: Source, memory: DigestMemory, *, hash_now: bool) -> Mapping[str, Any] | None:
    """Return what identifies the input model, or None when its files would have to be hashed first."""
    if source.fetches:
        return {"format": FORMAT, "source": dict(source.key_parts())}
    fetched = source.locate()
    if fetched is None:
        return None
    digests = [fetched.digest] if fetched.digest else []
    if not digests:
        for folder in _folders(fetched.model):
            digest = memory.folder(folder) if hash_now else memory.known_folder(folder)
            if digest is None:
                return None
            digests.append(digest)
    return {"format": FORMAT, "source": {"content": digests}}


def _folders(model: Model) -> list[Path]:
    return [model.path, *_folders(model.base)] if isinstance(model, HfAdapter) else [model.path]


def _input_model(source: Source, ingredients: Mapping[str, Any] | None, store: Store) -> tuple[Model | None, bool]:
    if not source.fetches:
        fetched = source.locate()
        return (fetched.model, True) if fetched else (None, False)
    entry = store.find(fingerprint.digest(ingredients)) if ingredients else None
    if entry is None:
        return None, False
    from picual.models import model_from_wire

    return model_from_wire(entry.manifest.value["model"], entry.content), True


def profile_of(model: Model | None) -> Profile | None:
    """Return the sizes of a model whose files are here."""
    if isinstance(model, HfAdapter):
        model = model.root()
    return model.profile() if isinstance(model, HfModel) else None


def _steps(
    recipe: Recipe, store: Store, memory: DigestMemory, machine: Machine, threads: int,
    source: Mapping[str, Any] | None, profile: Profile | None,
) -> tuple[PlannedStep, ...]:  # fmt: skip
    planned: list[PlannedStep] = []
    key = None if source is None else fingerprint.digest(source)
    previous_runs = ""
    rows = {name: count_rows(config) for name, config in recipe.data.items()} if profile else {}
    for number, spec in enumerate(recipe.steps, 1):
        kind = pass_registry.load(spec.type)
        values, _ = coerce(kind, spec.fields)
        a_pass = pass_registry.build(spec.type, values)
        used = data_used(a_pass, recipe.data)
        ingredients = None if key is None else _ingredients(a_pass, key, used, recipe, machine, threads, memory)
        key = None if ingredients is None else fingerprint.digest(ingredients)
        cached = key is not None and store.find(key) is not None
        why = "" if cached else _why(store, ingredients, f"pass {a_pass.name}", previous_runs)
        forecast = None if profile is None else a_pass.forecast(profile, recipe.target, machine, rows)
        profile = None if profile is None else a_pass.profile_after(profile)
        planned.append(
            PlannedStep(
                number=number, name=spec.name, a_pass=a_pass, ingredients=ingredients, key=key, cached=cached,
                why=why, forecast=forecast, data=used, place=spec.place,
            )
        )  # fmt: skip
        previous_runs = "" if cached else f"its input changed (step {number})"
    return tuple(planned)


def _why(store: Store, ingredients: Mapping[str, Any] | None, label: str, previous_runs: str) -> str:
    if ingredients is None:
        return "input hashed at run"
    reason = store.why_not(ingredients, label)
    only_input = reason.startswith("input ") and ";" not in reason
    return previous_runs if previous_runs and (only_input or reason == "first time") else reason


def _ingredients(
    a_pass: Pass[Any, Any], input_key: str, data: Mapping[str, DataConfig], recipe: Recipe, machine: Machine,
    threads: int, memory: DigestMemory,
) -> dict[str, Any]:  # fmt: skip
    fields = values_of(a_pass)
    for item in fields_of(a_pass):
        if item.metadata.get("role") == "data" and fields[item.name] is not None:
            fields[item.name] = data_ingredients(data[fields[item.name]], memory)
    return {
        "format": FORMAT,
        "pass": a_pass.name,
        "version": a_pass.version,
        "fields": fields,
        "input": input_key,
        "seed": recipe.seed,
        "threads": threads,
        "device": machine.device_class,
        "target": recipe.target.to_wire() if a_pass.target_matters else None,
        "libraries": {name: _lazy.version_of(name) for name in a_pass.libraries},
    }


def data_ingredients(config: DataConfig, memory: DigestMemory) -> dict[str, Any]:
    """Return what identifies a data set: its settings and the content of its files, not their paths."""
    wire = config.to_wire()
    wire["files"] = [memory.of(path) for path in config.paths()]
    return wire


def data_used(a_pass: Pass[Any, Any] | Metric, data: Mapping[str, DataConfig]) -> dict[str, DataConfig]:
    """Return the data sets that the fields of a pass or metric name."""
    named = [getattr(a_pass, item.name) for item in fields_of(a_pass) if item.metadata.get("role") == "data"]
    return {name: data[name] for name in named if name is not None}


def count_rows(config: DataConfig) -> int:
    """Return the number of rows of a data set whose files are here and not huge; else 0."""
    if not config.files or sum(path.stat().st_size for path in config.paths()) > SMALL_DATA:
        return 0
    return data_files.count_rows(config)


def _metric(recipe: Recipe, name: str) -> PlannedMetric:
    spec = next(spec for spec in recipe.metrics if spec.name == name)
    values, _ = coerce(metric_registry.load(spec.type), spec.fields)
    metric = metric_registry.build(spec.type, values)
    return PlannedMetric(name=name, metric=metric, data=data_used(metric, recipe.data), place=spec.place)


def obstacles(plan: Plan, store: Store, output: Path) -> list[PicualError]:
    """Return what on this machine would stop the run: missing packages, provider, host, memory, disk."""
    found: list[PicualError] = []
    recipe = plan.recipe
    pending = [step for step in plan.steps if not step.cached]
    needs: list[Pass[Any, Any] | Metric] = [*(s.a_pass for s in pending), *(m.metric for m in plan.metrics)]
    for needed in needs:
        absent = [module for module in needed.imports if not _lazy.is_installed(module)]
        found += [_lazy.missing(module, extra=needed.extra, by=needed.name) for module in absent[:1]]
    found += _hosts(recipe)
    try:
        recipe.target.require_here()
    except DeviceUnavailable as error:
        found.append(error)
    if plan.model is not None and not plan.source.fetches:
        found += _examine(plan.model)
    if plan.model is None:
        found += plan.source.obstacles()
    return [*found, *_output(output), *_fit(plan, pending, store, output)]


def _hosts(recipe: Recipe) -> list[PicualError]:
    """Name every host but this machine: the recipe's own, and those of single steps."""
    named = dict.fromkeys([recipe.host, *(step.host for step in recipe.steps if step.host is not None)])
    return [
        DeviceUnavailable(
            f"host `{host.name}` ({host.type}) cannot be reached from this version",
            where=str(host.place),
            hint="add `--host local` to run on this machine",
        )
        for host in (recipe.hosts.get(name) for name in named)
        if host is not None and host.type != "local"
    ]


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
    allowed = min(memory_allowed(plan.machine), plan.recipe.target.memory or plan.machine.memory)
    found: list[PicualError] = [
        NotEnough(
            f"step {step.number} `{step.name}` needs about {step.forecast.memory / 1e9:.1f} GB of memory;"
            f" {allowed / 1e9:.1f} GB are free here",
            where=str(step.place),
            hint="run on a machine with more memory, or choose a smaller model",
        )
        for step in pending
        if step.forecast is not None and step.forecast.memory > allowed
    ]
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


def memory_allowed(machine: Machine) -> int:
    """Return the anonymous bytes a step may hold on this machine."""
    return int(machine.memory_free - MEMORY_RESERVE * machine.memory)
