"""The verbs of the command line, for notebooks and scripts. Nothing here prints."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from picual import _atomic, hardware
from picual import doctor as examination
from picual import plan as planning
from picual import report as reporting
from picual.engine import driver, history
from picual.engine.events import Listener
from picual.engine.results import RunResult
from picual.engine.run import Engine
from picual.errors import BadValue, PicualError, Problem, Refused
from picual.executors.base import Executor
from picual.executors.host import Surroundings
from picual.executors.process import ProcessExecutor
from picual.hardware import Target
from picual.metrics import registry as metric_registry
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, HfModel
from picual.models.detect import open_folder
from picual.models.session import Session, open_session
from picual.plan import Plan
from picual.recipe import check as checking
from picual.recipe import dump
from picual.recipe import load as loading
from picual.recipe.load import Overrides
from picual.recipe.moving import moved
from picual.recipe.optimizing import note_of, recipe_for
from picual.recipe.schema import Recipe
from picual.recipe.wish import Wish
from picual.report.tracking import track
from picual.sources.azure_client import Access
from picual.sources.azure_data import bring
from picual.space import fields_of
from picual.store.local import Store

RecipeLike = Path | str | Mapping[str, Any] | Recipe


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What ``run`` returns: the report as it was written, the model's folder, and the result it came from."""

    report: dict[str, Any]
    output: Path
    result: RunResult

    @property
    def model(self) -> Path:
        """The finished model's folder."""
        return self.output / "model"


def load(recipe: RecipeLike, *, settings: Sequence[str] = (), overrides: Overrides | None = None) -> Recipe:
    """Read a recipe of either dialect; ``settings`` are ``--set`` assignments.

    Raises:
        RecipeError: The file cannot be read.
    """
    if isinstance(recipe, Recipe):
        return recipe
    source = recipe if isinstance(recipe, Mapping) else Path(recipe)
    return loading.load(source, settings=settings, overrides=overrides)


def check(recipe: RecipeLike, **changes: Any) -> list[Problem]:
    """Return every mistake in a recipe, in the order of the file. Takes the arguments of ``load``."""
    return checking.check(load(recipe, **changes))


def converted(config: RecipeLike, *, beside: Path | None = None, **changes: Any) -> Recipe:
    """Return an Olive config (or any recipe) as a recipe that may be written as a native one.

    Args:
        config: The config.
        beside: Folder that the native file will be in; left out, the config's own.
        changes: The arguments of ``load``.

    Raises:
        RecipeProblems: Some of it could not be read, so that the native recipe would do something else.
    """
    recipe = load(config, **changes)
    checking.require_readable(recipe)
    return recipe if beside is None else moved(recipe, beside)


def convert(config: RecipeLike, *, beside: Path | None = None, **changes: Any) -> str:
    """Return an Olive config (or any recipe) as native YAML with its notes; takes what ``converted`` does."""
    return dump.to_yaml(converted(config, beside=beside, **changes))


def plan(recipe: RecipeLike, *, store: Path | None = None, offline: bool = False, **changes: Any) -> Plan:
    """Return what ``run`` would do.

    Raises:
        RecipeProblems: The recipe has mistakes; all of them are in it.
    """
    loaded = load(recipe, **changes)
    checking.require(loaded)
    return planning.make_plan(loaded, open_store(loaded, store), offline=offline)


def obstacles(a_plan: Plan, *, store: Path | None = None, output: Path | None = None) -> list[PicualError]:
    """Return what on this machine would stop the plan."""
    return planning.obstacles(a_plan, open_store(a_plan.recipe, store), output_of(a_plan.recipe, output))


def run(
    recipe: RecipeLike, *, output: Path | None = None, store: Path | None = None, offline: bool = False,
    fresh: bool = False, listeners: tuple[Listener, ...] = (),
    executor: Callable[[], Executor] = ProcessExecutor, **changes: Any,
) -> Outcome:  # fmt: skip
    """Run a recipe to a verified model in ``output/model``.

    Args:
        recipe: A file, a mapping or a loaded recipe.
        output: Overrides the recipe's own.
        store: Overrides the recipe's own.
        offline: Make no network call.
        fresh: Do every step again, whatever the store holds.
        listeners: Called with each event.
        executor: Makes what jobs run in; left out: a worker process on this machine.
        **changes: ``settings`` and ``overrides`` of ``load``.

    Raises:
        PicualError: What stopped the run. ``output/report.json`` tells what was reached.
    """
    loaded = load(recipe, **changes)
    checking.require(loaded)
    the_store = open_store(loaded, store)
    loaded = _with_data_here(loaded, the_store, offline=offline)
    folder = output_of(loaded, output)
    a_plan = planning.make_plan(loaded, the_store, offline=offline)
    _stop_at(planning.obstacles(a_plan, the_store, folder), loaded)
    engine = Engine(the_store, executor, listeners, offline, fresh)
    with driver.driving(folder, the_store.root):
        with driver.beginning(folder):
            for site in a_plan.sites.values():
                site.host.prepare(Surroundings(state=site.state, offline=offline, emit=_told(listeners)))
            if a_plan.model is None:  # only now is it known how much memory and disk the steps take
                a_plan = planning.make_plan(loaded, the_store, offline=offline, hash_source=True)
                engine.fetch(a_plan)
                a_plan = planning.make_plan(loaded, the_store, offline=offline)
                _stop_at(planning.obstacles(a_plan, the_store, folder), loaded)
            a_plan = planning.make_plan(loaded, the_store, offline=offline, hash_source=True)
        result = engine.run(a_plan, folder)
    written = reporting.write(result, result.plan)
    facts = {
        "recipe": loaded.file,
        "output": str(folder),
        "verdict": result.verdict,
        "seconds": written["seconds"],
    }
    history.record(the_store.root, facts)
    if loaded.tracking is not None:
        track(written, loaded.tracking)
    if result.error is not None:
        raise result.error
    return Outcome(report=written, output=folder, result=result)


def fetch(
    uri: str, *, options: Mapping[str, Any] | None = None, store: Path | None = None, offline: bool = False,
    listeners: tuple[Listener, ...] = (),
) -> Path:  # fmt: skip
    """Bring a model into the store and return its folder there."""
    loaded = loading.load({"version": 1, "model": {"uri": uri, **(options or {})}, "passes": {}})
    the_store = open_store(loaded, store)
    a_plan = planning.make_plan(loaded, the_store, offline=offline, hash_source=True)
    return Engine(the_store, ProcessExecutor, listeners, offline).fetch(a_plan).model.path


def evaluate(
    model: str | Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], *,
    data: Mapping[str, Mapping[str, Any]] | None = None, store: Path | None = None, offline: bool = False,
    trust: bool = False, listeners: tuple[Listener, ...] = (),
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Measure a model of any kind, and return the values by metric.

    Args:
        model: As in a recipe.
        metrics: Fields by metric; one that needs data and names none takes the first of ``data``.
        data: Data sets as in a recipe.
        store: Where values are remembered.
        offline: Make no network call.
        trust: Allow model code and pickles.
        listeners: Called with each event.
    """
    asked = {name: _with_data(name, fields, data or {}) for name, fields in metrics.items()}
    mapping = {"version": 1, "model": model, "data": data or {}, "passes": {}, "metrics": asked}
    loaded = loading.load(mapping, overrides=Overrides(trust=trust))
    checking.require(loaded)
    the_store = open_store(loaded, store)
    loaded = _with_data_here(loaded, the_store, offline=offline)
    a_plan = planning.make_plan(loaded, the_store, offline=offline, hash_source=True)
    return Engine(the_store, ProcessExecutor, listeners, offline).measure(a_plan)


def _with_data_here(recipe: Recipe, store: Store, *, offline: bool) -> Recipe:
    """Return the recipe with the data that is kept elsewhere fetched into the store, and checked with its rows."""
    if not any(config.remote() for config in recipe.data.values()):
        return recipe
    access = Access.of(recipe.model.options, Path(recipe.folder))
    brought = replace(recipe, data={
        name: replace(config, files=tuple(
            str(path)
            for file in config.files
            for path in (bring(file, store.root, access, offline=offline) if file in config.remote() else [file])
        ))
        for name, config in recipe.data.items()
    })  # fmt: skip
    checking.require(brought)
    return brought


def _with_data(name: str, fields: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    fillable = [item.name for item in fields_of(metric_registry.load(name)) if item.metadata.get("role") == "data"]
    if data and fillable and "file" not in fields:
        return {fillable[0]: next(iter(data)), **fields}
    return dict(fields)


def open_model(folder: Path | str, *, trust: bool = False, adapter: str | None = None) -> Session:
    """Load a Hugging Face, adapter or GenAI folder, or an output folder, to answer in its own runtime.

    ``adapter`` names which of a GenAI folder's adapters answers, or ``none``; left out, the folder says.
    Close what this returns to give the memory back.
    """
    model = open_folder(Path(folder), trust_remote_code=trust)
    return open_session(model, threads=hardware.physical_cores(), adapter=adapter)


def generate(folder: Path | str, prompt: str, *, max_new_tokens: int = 256, raw: bool = False) -> str:
    """Return a model's greedy answer to a message, or with ``raw`` its continuation of a text."""
    with contextlib.closing(open_model(folder)) as session:
        text = prompt if raw else session.chat_prompt([{"role": "user", "content": prompt}])
        return "".join(session.stream(text, max_new_tokens=max_new_tokens))


def report(output: Path | str) -> dict[str, Any]:
    """Return the report of a run from its output folder."""
    return reporting.read(Path(output))


def write_report(output: Path | str, *, form: Literal["html", "md"] = "html") -> Path:
    """Write ``report.html`` or ``report.md`` anew from ``report.json`` in an output folder; return its path."""
    return (reporting.write_page if form == "html" else reporting.write_markdown)(Path(output))


def compare(output: Path | str, other: Path | str) -> dict[str, Any]:
    """Return two runs side by side, from their output folders: their best models and their recipes."""
    return reporting.compare(report(output), report(other))


def doctor(store: Path | None = None) -> dict[str, Any]:
    """Return what this machine has, and what each pass lacks on it."""
    return examination.examine(store)


def runs(store: Path | None = None) -> list[dict[str, Any]]:
    """Return the runs the store has seen, oldest first."""
    return history.runs(Store(store).root)


def ready(
    recipe: RecipeLike, *, output: Path | None = None, store: Path | None = None, offline: bool = False
) -> Path:
    """Check and plan a recipe as ``run`` would, and return its output folder.

    Raises:
        PicualError: What would stop the run.
    """
    a_plan = plan(recipe, store=store, offline=offline)
    folder = output_of(a_plan.recipe, output)
    _stop_at(planning.obstacles(a_plan, open_store(a_plan.recipe, store), folder), a_plan.recipe)
    return folder


def standing(output: Path | str) -> driver.Standing:
    """Return how the run in an output folder stands, whoever drives it."""
    return driver.standing(Path(output))


def cancel(output: Path | str) -> bool:
    """Ask the driver of the run in an output folder to stop; say whether there was one."""
    return driver.stop(Path(output))


def logs(output: Path | str, step: str | None = None) -> list[Path]:
    """Return the logs of the run in an output folder: of its steps, or of one, and of its detached driver."""
    folder = Path(output) / "run"
    found = sorted((folder / "logs").glob("*.txt"))
    if step is not None:
        return [file for file in found if file.stem == step or file.stem.endswith(f"-{step}")]
    return [*found, *(file for file in [driver_log(output)] if file.exists())]


def recorded(output: Path | str) -> int:
    """Return how much is recorded of the runs in an output folder; it grows as soon as another is under way."""
    return driver.recorded(Path(output))


def driver_log(output: Path | str) -> Path:
    """Return where a detached driver says what it has to say."""
    return Path(output) / "run" / driver.LOG


def open_store(recipe: Recipe, store: Path | None = None) -> Store:
    """Return the store a recipe uses."""
    if store is None and recipe.store is not None:
        store = Path(recipe.folder) / recipe.store
    return Store(store)


def output_of(recipe: Recipe, output: Path | None = None) -> Path:
    """Return the output folder of a recipe, absolute."""
    return (output or Path(recipe.folder) / recipe.output).absolute()


def one_pass(name: str, model: str | Mapping[str, Any], fields: Mapping[str, Any], **parts: Any) -> Recipe:
    """Return the recipe of a single pass on a model: what ``picual finetune``, ``merge`` and ``export`` run.

    Args:
        name: The pass.
        model: As in a recipe.
        fields: Of the pass.
        **parts: Other parts of a recipe (``data``, ``target``, ``output``, ...).
    """
    mapping = {"version": 1, "model": model, "passes": {name: dict(fields)}, **parts}
    return replace(loading.load(mapping), file=f"picual {name}")


def sizes_by_weight(model: Path, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each weight of a model would weigh quantized by the pass ``quantize``, before any work.

    Under a size the formats are those that the weights alone suggest; calibration text may shift them.

    Args:
        model: Folder of a checkpoint.
        fields: Of the pass, as in a recipe.

    Raises:
        Refused: The pass does not take this model, or the size cannot be reached.
        BadValue: A field does not fit.
    """
    from picual.passes.quantize.quantize import Quantize
    from picual.recipe.fields import coerce

    values, problems = coerce(Quantize, fields)
    if problems:
        raise BadValue(problems[0].what, hint=problems[0].hint)
    found = open_folder(model)
    if not isinstance(found, HfModel):
        raise Refused(f"`quantize` takes {HfModel.title}; this is {found.title}", where=str(model))
    a_pass = Quantize(**values)
    a_pass.check(found, Target())
    rows = []
    for site, form in a_pass.outlook(found, Target()).items():
        for name, height in zip(site.names, site.heights, strict=True):
            size = form.nbytes(height, site.width)
            rows.append({"name": name, "shape": f"{height} x {site.width}", "format": str(form), "bytes": size})
    return rows


def optimizing(model: str | Mapping[str, Any], **wish: Any) -> tuple[Recipe, list[str]]:
    """Return the recipe that ``picual optimize`` runs, and why. Takes the fields of ``wish.Wish``."""
    mapping, reasons = recipe_for(Wish(model=model, **wish))
    return replace(loading.load(mapping), notes=tuple(map(note_of, reasons))), reasons


def write_recipe(recipe: Recipe, output: Path) -> Path:
    """Write a recipe to ``output/recipe.yaml``, its paths absolute, and return the file."""
    file = output.absolute() / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    folder, spec = Path(recipe.folder).absolute(), recipe.model
    adapter = None if spec.adapter is None else _found(spec.adapter, folder)
    moved = replace(recipe, model=replace(spec, uri=_found(spec.uri, folder), adapter=adapter))
    _atomic.write_text(file, dump.to_yaml(replace(moved, folder=str(file.parent), output=".")))
    return file


def written(recipe: Recipe, output: Path, *, overrides: Overrides | None = None) -> Recipe:
    """Write a recipe to ``output/recipe.yaml`` and return it as it is read from there, its notes kept."""
    return replace(load(write_recipe(recipe, output), overrides=overrides), notes=recipe.notes)


def _found(name: str, folder: Path) -> str:
    """Return the absolute path of what exists on this machine; any other name as it is."""
    path = folder / Path(name).expanduser()
    return str(path) if path.exists() else name


def optimize(
    model: str | Mapping[str, Any], *, output: Path, store: Path | None = None,
    listeners: tuple[Listener, ...] = (), **wish: Any,
) -> Outcome:  # fmt: skip
    """Make the best deployable form of a model inside the limits of ``wish.Wish``.

    Raises:
        NothingFits: No candidate keeps the limits; the closest is in the message.
    """
    recipe, _ = optimizing(model, **wish)
    return run(written(recipe, output), output=output, store=store, listeners=listeners)


def finetune(model: str | Mapping[str, Any], *, data: Mapping[str, Any], output: Path, **fields: Any) -> Outcome:
    """Fine-tune a model on one data set, described as under ``data:``, into an adapter in ``output/model``."""
    parts = {"data": {"data": dict(data)}, "output": str(output)}
    return run(one_pass("lora", model, {"data": "data", **fields}, **parts))


def merge(model: str | Mapping[str, Any], *, output: Path, **fields: Any) -> Outcome:
    """Merge an adapter, by its folder or as ``{"uri": BASE, "adapter": FOLDER}``, into plain weights."""
    return run(one_pass("merge-adapter", model, fields, output=str(output)))


def export(model: str | Mapping[str, Any], *, output: Path, **fields: Any) -> Outcome:
    """Export a model for ONNX Runtime GenAI into ``output/model``, e.g. with ``precision="int4"``."""
    return run(one_pass("build-genai", model, fields, output=str(output)))


def convert_adapter(
    adapter: Path | str, file: Path, *, base: Path | str | None = None, model: Path | None = None,
    halves: bool = False,
) -> int:  # fmt: skip
    """Write an adapter in peft's form as a file for ONNX Runtime GenAI; return how many inputs it fills.

    Args:
        adapter: Its folder.
        file: To write, by convention ``NAME.onnx_adapter``.
        base: Folder of the model it was trained on; None: the one that the adapter names.
        model: Exported folder whose graph takes it; None: what ``build-genai`` would make of the base now.
        halves: For a graph that computes in half precision; ``model`` says it itself.
    """
    from picual.passes.export.adapter_conversion import convert

    root = None if base is None else open_folder(Path(base))
    if isinstance(root, HfCheckpoint):
        found: Any = HfAdapter(Path(adapter), root)
    else:
        found = open_folder(Path(adapter))
    if not isinstance(found, HfAdapter) or not isinstance(root, HfCheckpoint | None):
        odd = found if root is None else root
        raise Refused(f"this is {odd.title}, not an adapter on a checkpoint", where=str(odd.path),
                      hint="give the adapter's folder, and its checkpoint with --base")  # fmt: skip
    onto = None if model is None else open_folder(model)
    if not isinstance(onto, GenaiModel | None):
        raise Refused(f"this is {onto.title}, not {GenaiModel.title}", where=str(onto.path),
                      hint="give a folder that `picual export` made")  # fmt: skip
    return convert(found, Path(file), model=onto, halves=halves)


def extract_adapters(
    model: Path | str, folder: Path, *, form: Literal["onnx_adapter", "safetensors"] = "onnx_adapter"
) -> list[Path]:
    """Write the adapters of an exported folder, or one in peft's form, as files of their own; return these."""
    from picual.passes.export.adapter_conversion import extract

    return extract(open_folder(Path(model)), Path(folder), form=form)


def _told(listeners: Sequence[Listener]) -> Callable[..., None]:
    """Return what tells the listeners of an event before the run has a place to record it."""

    def tell(name: str, **values: Any) -> None:
        for listener in listeners:
            listener({"time": round(time.time(), 3), "event": name, **values})

    return tell


def _stop_at(obstacles: Sequence[PicualError], recipe: Recipe) -> None:
    """Raise the first of what stands in the way, and say that there is more."""
    if len(obstacles) > 1:
        listing = shlex.join(["picual", "plan", recipe.file or "RECIPE"])
        more = f"`{listing}` lists {len(obstacles) - 1} more"
        obstacles[0].hint = f"{obstacles[0].hint}\n{more}" if obstacles[0].hint else more
    for obstacle in obstacles[:1]:
        raise obstacle
