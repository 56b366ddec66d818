"""One Olive run config, of any age, as a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picual.recipe.document import Document
from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets, read_data
from picual.recipe.olive.engine import Engine, engine_reader, read_engine
from picual.recipe.olive.goals import Goals
from picual.recipe.olive.keys import note_unknown
from picual.recipe.olive.metrics import read_metrics
from picual.recipe.olive.model import read_model
from picual.recipe.olive.notes import Ledger, Path_
from picual.recipe.olive.packaging import KEY as PACKAGING
from picual.recipe.olive.packaging import read_packaging
from picual.recipe.olive.passes import read_passes
from picual.recipe.olive.reader import Found, Reader
from picual.recipe.olive.resource import RETRIES, read_client
from picual.recipe.olive.search import search_of
from picual.recipe.olive.strategy import Strategy
from picual.recipe.olive.systems import Systems, read_systems
from picual.recipe.olive.target import read_target, unused_hardware
from picual.recipe.schema import Place, Recipe, StepSpec


def import_config(document: Document, *, folder: Path | None = None) -> Recipe:
    """Return the recipe that an Olive config stands for, with a note on every value of it.

    Nothing in it is executed and nothing is fetched. Single wrong values become ``problems``.

    Args:
        document: The config.
        folder: That its relative paths are relative to; left out, the one it lies in.

    Raises:
        BadValue: A section is not of its basic shape: `passes` is text, `data_configs` a number.
    """
    if folder is None:
        folder = Path(document.file).parent if document.file else Path()
    ledger = Ledger(document)
    top = Reader(ledger, [Found((), document.value)])
    context = Context(ledger, folder.absolute())
    reader = engine_reader(context, top)
    _take_client(context, reader)
    engine = read_engine(context, reader)
    model = read_model(context, top)
    systems = read_systems(context, top)
    sets = read_data(context, top, model.dataset, reader.text("data_root", to="data.*.files"))
    systems.run_whole_on(engine.whole)
    host = systems.home_of(systems.use(engine.host, "host", "host"))
    target_name = systems.use(engine.target, "target", "target")
    steps = read_passes(context, top, sets, systems, engine)
    target, target_places = read_target(context, systems, target_name, engine)
    unused_hardware(context, systems, target_name)
    metrics, goals = read_metrics(context, top, sets, engine)
    sets.leave_out_empty(
        context, _texts_in([*(step.fields for step in steps), *(metric.fields for metric in metrics)])
    )
    holdouts = _held_out(context, sets)
    register = _registered(context, reader, systems, engine, steps)
    _unused_client(context, top, systems)
    note_unknown(reader)
    recipe = Recipe(
        model=dataclasses.replace(model.source, trust_remote_code=context.trust),
        steps=steps,
        target=target,
        hosts=systems.hosts(),
        host=host,
        target_host=_measured_on(systems, host, target_name),
        data=sets.configs,
        metrics=metrics,
        output=engine.output,
        store=engine.store,
        log_level=engine.log_level,
        register=register,
        folder=str(context.folder),
        file=document.file,
        dialect="olive",
        data_places={**sets.places, **holdouts},
    )
    return _closed(context, recipe, engine, goals, target_places)


def _take_client(context: Context, reader: Reader) -> None:
    if (client := reader.child("azureml_client", nested=None)) is not None:
        context.client = read_client(client)
        context.azure = {name: context.client[name] for name in RETRIES if name in context.client}


def _closed(
    context: Context, recipe: Recipe, engine: Engine, goals: Goals, target_places: Mapping[str, Path_]
) -> Recipe:
    """Return the recipe with its search, and with what is to be said now that all of the config is read."""
    ledger = context.ledger
    search = search_of(context, engine.strategy, goals, recipe)
    searched = {} if search is None else _search_places(engine.strategy, goals)
    return dataclasses.replace(
        recipe,
        search=search,
        notes=ledger.close(),
        places=_places(ledger, {**engine.where, **target_places, **searched}),
        problems=(*ledger.document.problems, *ledger.problems),
    )


def _registered(
    context: Context, reader: Reader, systems: Systems, engine: Engine, steps: Sequence[StepSpec]
) -> Mapping[str, Any] | None:
    found = reader.find(PACKAGING)
    if found is not None:
        engine.where["register"] = found.path
    return read_packaging(context, reader, systems, makes_a_model=bool(steps))


def _measured_on(systems: Systems, host: str, target: str | None) -> str | None:
    """Return the host where models are measured: on Olive's target, which is where the workflow is unless named.

    A target that is no system is a mistake, which stands in the place of the provider.
    """
    target = systems.home_of(target if target in systems.hosts() else None)
    return None if target == host else target


def _search_places(strategy: Strategy, goals: Goals) -> dict[str, Path_]:
    where = {} if strategy.found is None else {"search": strategy.found.path}
    return {**where, **strategy.where, **goals.where}


def _texts_in(value: Any) -> set[str]:
    """Return every text in a value, however deep: the names of data sets are among them."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {text for part in parts for text in _texts_in(part)}


def _held_out(context: Context, sets: DataSets) -> dict[str, Place]:
    """Keep the shares that passes ask for from the data sets they train on."""
    places = {}
    for name, (share, path) in context.holdouts.items():
        if name in sets.configs:
            sets.configs[name] = dataclasses.replace(sets.configs[name], holdout=share)
            places[f"{name}.holdout"] = context.ledger.place(path)
    return places


def _unused_client(context: Context, top: Reader, systems: Systems) -> None:
    """Say of the config's Azure workspace that nothing is there, when nothing is."""
    found = top.find("azureml_client")
    azure = any(system.host.type == "azureml" for system in systems.named.values())
    if found is None or azure or context.addressed:
        return
    for name in context.client:
        path = (*found.path, name)
        context.ledger.note(path, "ignored", "nothing in the config runs in Azure or is kept there")


def _places(ledger: Ledger, where: dict[str, Path_]) -> dict[str, Place]:
    places = {key: ledger.place(path) for key, path in where.items()}
    return {**places, "model": ledger.place(("input_model",))}
