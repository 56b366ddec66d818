"""Recipe to plan: every step with its key, forecast and cache state. No model code is run, no torch imported."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from picual import fingerprint, hardware
from picual.data import files as data_files
from picual.data.base import DataConfig
from picual.hardware import Machine
from picual.metrics import registry as metric_registry
from picual.metrics.base import Metric
from picual.models import HfAdapter, HfCheckpoint, Model, Profile
from picual.passes import registry as pass_registry
from picual.passes.base import Pass
from picual.plan.overlap import overlap_warnings
from picual.plan.sites import Site, sites_of
from picual.plan.values import Plan, PlannedMetric, PlannedStep
from picual.recipe import searching
from picual.recipe.fields import coerce
from picual.recipe.registering import registry_of
from picual.recipe.schema import MetricSpec, Recipe
from picual.search.parameters import Candidate
from picual.sources.base import Source, needs_network
from picual.sources.digests import DigestMemory
from picual.sources.resolve import resolve
from picual.space import fields_of, values_of
from picual.store.local import Store

FORMAT = 1  # part of every key: raised when what goes into a key changes meaning


def make_plan(recipe: Recipe, store: Store, *, offline: bool = False, hash_source: bool = False) -> Plan:
    """Resolve a checked recipe into steps with keys.

    Args:
        recipe: Without problems (see ``recipe.check``).
        store: Where finished steps are looked up.
        offline: Whether the source may use the network.
        hash_source: Hash the input model's files if their digest is not remembered. Takes seconds a
            gigabyte, so only a run does it.
    """
    given = recipe
    space = searching.space_of(given)
    settings = searching.settings_of(given)
    recipe = searching.decided(given, space.first())
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
    sites = sites_of(recipe, machine, store.root)
    steps = _steps(recipe, store, memory, machine, sites, ingredients, profile)
    metrics = tuple(_metric(recipe, spec) for spec in searching.measured(given))
    return Plan(
        recipe=recipe, open_recipe=given, search=settings, space=space, candidate=space.first(),
        source=source, model=model, source_ingredients=ingredients, source_cached=cached,
        profile=profile, steps=steps, metrics=metrics, machine=machine, threads=threads,
        sites=sites,
        warnings=overlap_warnings(steps, metrics), registry=registry_of(given),
    )  # fmt: skip


def variant(plan: Plan, candidate: Candidate, store: Store, memory: DigestMemory) -> Plan:
    """Return the plan of another candidate of the same search; it does not say why a step is to run."""
    recipe = searching.decided(plan.open_recipe, candidate)
    steps = _steps(
        recipe, store, memory, plan.machine, plan.sites, plan.source_ingredients, plan.profile, explain=False
    )
    return replace(plan, recipe=recipe, steps=steps, candidate=dict(candidate))


def source_ingredients(source: Source, memory: DigestMemory, *, hash_now: bool) -> Mapping[str, Any] | None:
    """Return what identifies the input model, or None when its files would have to be hashed first."""
    if source.fetches:
        if not hash_now and needs_network(source):
            return None
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
    return model.profile() if isinstance(model, HfCheckpoint) else None


def _steps(
    recipe: Recipe, store: Store, memory: DigestMemory, machine: Machine, sites: Mapping[str, Site],
    source: Mapping[str, Any] | None, profile: Profile | None, *, explain: bool = True,
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
        site = sites[spec.host or recipe.host]
        elsewhere = key is None or any(config.remote() for config in used.values())
        ingredients = None if elsewhere else _ingredients(a_pass, key or "", used, recipe, site, memory)
        key = None if ingredients is None else fingerprint.digest(ingredients)
        cached = key is not None and store.find(key) is not None
        if ingredients is None:
            why = _unknown(used, profile)
        elif cached or not explain:
            why = ""
        else:
            why = _why(store, ingredients, f"pass {a_pass.name}", previous_runs)
        forecast = None if profile is None else a_pass.forecast(profile, recipe.target, machine, rows)
        profile = None if profile is None else a_pass.profile_after(profile)
        planned.append(
            PlannedStep(
                number=number, name=spec.name, a_pass=a_pass, ingredients=ingredients, key=key, cached=cached,
                why=why, forecast=forecast, data=used, site=site, after=profile, place=spec.place,
            )
        )  # fmt: skip
        previous_runs = "" if cached else f"its input changed (step {number})"
    return tuple(planned)


def _unknown(data: Mapping[str, DataConfig], profile: Profile | None) -> str:
    """Say why a step has no key yet."""
    if any(config.remote() for config in data.values()):
        return "data fetched at run"
    return "input fetched at run" if profile is None else "input hashed at run"


def _why(store: Store, ingredients: Mapping[str, Any], label: str, previous_runs: str) -> str:
    reason = store.why_not(ingredients, label)
    only_input = reason.startswith("input ") and ";" not in reason
    return previous_runs if previous_runs and (only_input or reason == "first time") else reason


def _ingredients(
    a_pass: Pass[Any, Any], input_key: str, data: Mapping[str, DataConfig], recipe: Recipe, site: Site,
    memory: DigestMemory,
) -> dict[str, Any]:  # fmt: skip
    fields = values_of(a_pass)
    for item in fields_of(a_pass):
        if item.metadata.get("role") == "data" and fields[item.name] is not None:
            fields[item.name] = data_ingredients(data[fields[item.name]], memory)
        elif item.metadata.get("role") == "adapters":
            fields[item.name] = {name: memory.folder(Path(at)) for name, at in fields[item.name].items()}
    return {
        "format": FORMAT,
        "pass": a_pass.name,
        "version": a_pass.version,
        "fields": fields,
        "input": input_key,
        "seed": recipe.seed,
        "threads": site.threads,
        "device": site.device,
        "target": recipe.target.to_wire() if a_pass.target_matters else None,
        "libraries": {name: site.version_of(name) for name in a_pass.libraries},
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
    """Return the number of rows of a data set whose files are here and not huge; else 0.

    They are read once while the files stay as they are: a search plans its candidates by the thousand.
    """
    if not data_files.are_small(config):
        return 0
    found = [(path, path.stat()) for path in config.paths()]
    return _counted(config, tuple((path, facts.st_size, facts.st_mtime_ns) for path, facts in found))


@functools.lru_cache(maxsize=32)
def _counted(config: DataConfig, _stamps: tuple[tuple[Path, int, int], ...]) -> data_files.RowCount:
    return data_files.count_rows(config)


def _metric(recipe: Recipe, spec: MetricSpec) -> PlannedMetric:
    values, _ = coerce(metric_registry.load(spec.type), spec.fields)
    metric = metric_registry.build(spec.type, values)
    return PlannedMetric(name=spec.name, metric=metric, data=data_used(metric, recipe.data), place=spec.place)
