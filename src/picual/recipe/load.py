"""From a file of either dialect, and what the command line changes in it, to a recipe."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picual.errors import UnknownName, nearest
from picual.hardware import PROVIDERS, Target
from picual.recipe import native
from picual.recipe.assign import Keys, assign
from picual.recipe.document import Document, document_of, read_document
from picual.recipe.dump import to_mapping
from picual.recipe.schema import Note, Place, Recipe

_OLIVE_KEYS = (
    "engine",
    "systems",
    "data_configs",
    "evaluators",
    "azureml_client",
    "workflow_id",
    "auto_optimizer_config",
)

_ADDRESS = ("uri", "path", "name")


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line puts in place of a recipe's own: `--model`, `--host`, `--target`, `-o`, `--store`.

    ``host`` and ``target`` are ``local`` for this machine, or a host of the recipe and an execution provider.
    ``offline`` is for those who fetch; reading a recipe never uses the network.
    """

    model: str | None = None
    host: str | None = None
    target: str | None = None
    output: str | None = None
    store: str | None = None
    offline: bool = False
    trust: bool = False


def load(
    source: Path | Mapping[str, Any],
    *,
    settings: Sequence[str] = (),
    overrides: Overrides | None = None,
    folder: Path | None = None,
) -> Recipe:
    """Read a recipe, native or Olive. What is wrong in it is in ``problems``; ``check.require`` raises it.

    Args:
        source: A file, or the same as a mapping.
        settings: ``PATH=VALUE`` on the native form, after the overrides.
        overrides: What the command line replaces.
        folder: That relative paths are relative to; left out, the file's own, or the current one.

    Raises:
        RecipeError: The file cannot be read, or a setting or an override names what is not there.
    """
    document = document_of(source) if isinstance(source, Mapping) else read_document(Path(source))
    if folder is None:
        folder = Path() if isinstance(source, Mapping) else Path(source).parent
    if dialect_of(document.value) == "olive":
        return _olive(document, folder, tuple(settings), overrides or Overrides())
    before = native.read(document, folder=folder)
    return _changed(before, document, tuple(settings), overrides or Overrides())


def dialect_of(value: Mapping[str, Any]) -> Literal["picual", "olive"]:
    """Say which dialect a mapping is written in."""
    if "input_model" in value:
        return "olive"
    if "version" in value or "model" in value:
        return "picual"
    if any(key in value for key in _OLIVE_KEYS):
        return "olive"
    passes = value.get("passes")
    entries = list(passes.values()) if isinstance(passes, Mapping) else []
    types = [entry.get("type") for entry in entries if isinstance(entry, Mapping)]
    return "olive" if any(isinstance(name, str) and name[:1].isupper() for name in types) else "picual"


def _olive(document: Document, folder: Path, settings: tuple[str, ...], overrides: Overrides) -> Recipe:
    from picual.recipe.olive import import_config

    recipe = import_config(document, folder=folder)
    absent = [problem for problem in document.problems if problem not in recipe.problems]
    recipe = dataclasses.replace(
        recipe, problems=(*absent, *recipe.problems), folder=str(folder.absolute()), dialect="olive"
    )
    as_native = Document(file=document.file, value=to_mapping(recipe), known=places_of(recipe))
    after = _changed(recipe, as_native, settings, overrides)
    problems = after.problems if after is recipe else (*recipe.problems, *after.problems)
    return dataclasses.replace(after, dialect="olive", problems=problems)


def _changed(before: Recipe, document: Document, settings: tuple[str, ...], overrides: Overrides) -> Recipe:
    """Read the recipe again with the command line's changes in its native form."""
    value = copy.deepcopy(document.value)
    notes = _override(value, before, overrides)
    known = dict(document.known)
    known |= assign(value, settings)
    if not settings and overrides == Overrides():
        return before
    changed = dataclasses.replace(document, value=value, known=known)
    recipe = native.read(changed, folder=Path(before.folder))
    return dataclasses.replace(recipe, notes=(*before.notes, *notes), trust=before.trust or overrides.trust)


def _override(value: dict[str, Any], before: Recipe, overrides: Overrides) -> list[Note]:
    notes: list[Note] = []
    if overrides.model is not None:
        notes += _override_model(value, before, overrides.model)
    if overrides.host is not None:
        notes += _override_host(value, before, overrides.host)
    if overrides.target is not None:
        notes += _override_target(value, before, overrides.target)
    if overrides.output is not None:
        value["output"] = str(Path(overrides.output).absolute())
    if overrides.store is not None:
        value["store"] = str(Path(overrides.store).absolute())
    return notes


def _override_model(value: dict[str, Any], before: Recipe, model: str) -> list[Note]:
    """Put another model in place. What else was said of the old one goes with it, by name."""
    given = value.get("model")
    value["model"] = _as_given(model)
    left = sorted(set(given) - {*_ADDRESS}) if isinstance(given, dict) else []
    text = f"it was said of {before.model.uri}, which `--model` replaces"
    notes = [_replaced("model", before.model.uri, model, f"--model {model}")]
    return notes + [Note(path=f"model.{key}", kind="ignored", text=text) for key in left]


def _override_host(value: dict[str, Any], before: Recipe, host: str) -> list[Note]:
    if host not in before.hosts:
        raise UnknownName(
            f"the recipe has no host `{host}`", where="--host", hint=nearest(host, list(before.hosts))
        )
    notes = []
    if before.host != host:
        notes.append(_replaced("host", _host_words(before, before.host), host, f"--host {host}"))
    value["host"] = host
    for step in before.steps:
        if step.host is not None and step.host != host:
            value["passes"][step.name].pop("host")
            notes.append(
                _replaced(f"passes.{step.name}.host", _host_words(before, step.host), host, f"--host {host}")
            )
    return notes


def _host_words(recipe: Recipe, name: str) -> str:
    host = recipe.hosts.get(name)
    return name if host is None or host.type == name else f"{name} ({host.type})"


def _override_target(value: dict[str, Any], before: Recipe, name: str) -> list[Note]:
    if name == "local":
        after = Target()
    elif name in {"cpu", "gpu", "npu"}:
        provider = next(provider for provider, (device, _) in PROVIDERS.items() if device == name)
        after = Target(device=PROVIDERS[provider][0], provider=provider)
    elif name in PROVIDERS:
        after = Target(device=PROVIDERS[name][0], provider=name)
    else:
        raise UnknownName(
            f"`{name}` is not a target",
            where="--target",
            hint=nearest(name, ["local", "cpu", "gpu", "npu", *PROVIDERS]) or "`--target local`",
        )
    value["target"] = {"device": after.device, "provider": after.provider, "runtime": after.runtime}
    measured_on = "local" if name == "local" and before.measured_on != "local" else before.target_host
    if measured_on is not None:
        value["target"]["host"] = measured_on
    old, new = _target_words(before.target), _target_words(after)
    return [] if before.target == after else [_replaced("target", old, new, f"--target {name}")]


def _target_words(target: Target) -> str:
    return f"{target.device} with {target.provider} in {target.runtime}"


def _replaced(path: str, old: str, new: str, by: str) -> Note:
    return Note(path=path, kind="replaced", text=f"{old or 'nothing'} is replaced by {new} (`{by}`)")


def _as_given(model: str) -> str:
    """Return the model of the command line: a path is relative to the current folder, not to the recipe's."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() or model.startswith((".", "/", "~")) else model


def places_of(recipe: Recipe) -> dict[Keys, Place]:
    """Return where the parts of a recipe stand, by their paths in the native form."""
    places: dict[Keys, Place] = {tuple(path.split(".")): place for path, place in recipe.places.items()}
    places[("model",)] = recipe.model.place
    places |= {("hosts", name): host.place for name, host in recipe.hosts.items()}
    for section, entries in (("passes", recipe.steps), ("metrics", recipe.metrics)):
        for entry in entries:
            places[section, entry.name] = entry.place
            for path, place in entry.places.items():
                keys = (path,) if path in entry.fields else tuple(path.split("."))
                places[section, entry.name, *keys] = place
    for path, place in recipe.data_places.items():
        name = next((name for name in recipe.data if path == name or path.startswith(f"{name}.")), path)
        places[("data", name, path[len(name) + 1 :]) if path != name else ("data", name)] = place
    return places
