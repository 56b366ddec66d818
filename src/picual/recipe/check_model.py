"""Mistakes in `model:` that can be seen without fetching or loading it, and what kind of model it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from picual.errors import Problem, RecipeError
from picual.models import GenaiModel, HfAdapter, HfModel, Model, OnnxModel, QuantizedHfModel
from picual.models.quantized import FILE as QUANTIZATION
from picual.recipe.paths import near_files
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import Place, Recipe
from picual.recipe.spots import spot
from picual.sources.azure_address import is_address
from picual.sources.resolve import refuse_kind, resolve

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_MARKS: dict[str, type[Model]] = {  # file in a model's folder -> what it is
    "genai_config.json": GenaiModel,
    "adapter_config.json": HfAdapter,
    QUANTIZATION: QuantizedHfModel,
    "config.json": HfModel,
}
Finding = tuple[str, str, str]  # field, sentence, hint


def model_problems(recipe: Recipe) -> list[Problem]:
    """Return what is wrong with the input model and its adapter."""
    if not recipe.model.uri and any("`model`" in problem.what for problem in recipe.problems):
        return []
    found = list(_findings(recipe)) or list(_unresolved(recipe))
    return [Problem(_where(recipe, field), what, hint) for field, what, hint in found]


def input_kind(recipe: Recipe) -> type[Model]:
    """Return what kind of model a recipe starts from, as far as names and the files that are here tell."""
    if recipe.model.adapter is not None:
        return HfAdapter
    path = _path(recipe, recipe.model.uri)
    if path.suffix == ".onnx":
        return OnnxModel
    if (path / "manifest.json").is_file() and (path / "model").is_dir():
        path /= "model"
    return next((kind for mark, kind in _MARKS.items() if (path / mark).is_file()), HfModel)


def _findings(recipe: Recipe) -> Iterator[Finding]:
    uri, adapter = recipe.model.uri, recipe.model.adapter
    if (kind := _refused_kind(recipe)) is not None:
        yield kind
        return
    if left := placeholder_in(uri):
        yield "uri", f"the model is still the placeholder `{left}`", "give it in the file, or with `--model PATH`"
    elif not uri:
        yield "uri", "the recipe names no model", "`model:` takes a folder, or an id such as `owner/name`"
    elif "://" not in uri and _is_local(recipe, uri):
        yield from _local(recipe, uri)
    if adapter is not None and (left := placeholder_in(adapter)):
        yield "adapter", f"the adapter is still the placeholder `{left}`", f"replace `{left}`"
    elif adapter is not None and "://" not in adapter and _is_local(recipe, adapter):
        yield from _local_adapter(recipe, adapter)


def _refused_kind(recipe: Recipe) -> Finding | None:
    """Return what is wrong with the kind of the model, which tells more than whether it is where it should be."""
    try:
        refuse_kind(recipe.model.options, by_azure=is_address(recipe.model.uri))
    except RecipeError as error:
        return "uri", error.what, error.hint
    return None


def _unresolved(recipe: Recipe) -> Iterator[Finding]:
    """Ask the sources themselves, which know the names of models and the options they take."""
    model = recipe.model
    try:
        resolve(
            model.uri, revision=model.revision, format=model.format, adapter=model.adapter,
            options=model.options, folder=Path(recipe.folder), offline=True,
        )  # fmt: skip
    except RecipeError as error:
        yield "uri", error.what, error.hint


def _is_local(recipe: Recipe, uri: str) -> bool:
    """Say whether an address is a path on this machine and not a hub id (`owner/name`) or a known name."""
    if is_address(uri):
        return False
    return uri.endswith(".gguf") or not _HUB_ID.fullmatch(uri) or _path(recipe, uri).exists()


def _path(recipe: Recipe, uri: str) -> Path:
    return Path(recipe.folder) / Path(uri).expanduser()


def _local(recipe: Recipe, uri: str) -> Iterator[Finding]:
    path = _path(recipe, uri)
    if not path.exists():
        near = near_files(path, Path(recipe.folder))
        yield (
            "uri",
            f"there is no model at `{uri}`",
            near or "give it with `--model PATH`; a hub id is `owner/name`",
        )
    elif path.is_file():
        if path.suffix.lower() not in {".gguf", ".onnx"} and recipe.model.format != "gguf":
            folder = f"did you mean `{Path(uri).parent}`?" if (path.parent / "config.json").is_file() else ""
            yield "uri", f"`{uri}` is a file; a model is a folder with `config.json`, or a GGUF file", folder
    elif not _holds_model(path):
        inside = [f"`{uri.rstrip('/')}/{found.parent.name}`" for found in sorted(path.glob("*/config.json"))]
        hint = "did you mean " + " or ".join(inside[:3]) + "?" if inside else "a model's folder has `config.json`"
        yield "uri", f"the model folder `{uri}` has no `config.json`", hint


def _holds_model(path: Path) -> bool:
    if any((path / mark).is_file() for mark in _MARKS) or any(path.glob("*.gguf")):
        return True
    is_output = (path / "manifest.json").is_file() and (path / "model").is_dir()
    return is_output or any(path.rglob("MLmodel"))


def _local_adapter(recipe: Recipe, adapter: str) -> Iterator[Finding]:
    path = _path(recipe, adapter)
    if not path.exists():
        yield "adapter", f"there is no adapter at `{adapter}`", near_files(path, Path(recipe.folder))
    elif not (path / "adapter_config.json").is_file():
        hint = "give a folder that peft's `save_pretrained` made"
        yield "adapter", f"the adapter folder `{adapter}` has no `adapter_config.json`", hint


def _where(recipe: Recipe, key: str) -> str:
    place = recipe.places.get(f"model.{key}") or recipe.model.place
    return spot(place if place != Place() else Place(file=recipe.file), path="model")
