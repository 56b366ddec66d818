"""A recipe that is written into another folder: its relative paths, so that they hold from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual.errors import UnknownName
from picual.executors import registry
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import HostSpec, ModelSource, Recipe
from picual.registries import kinds
from picual.sources.azure_address import is_address
from picual.sources.resolve import HUB_ID
from picual.space import fields_of

_WORKSPACE = "aml_config_path"  # option of a model that Azure keeps


def moved(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe as it reads from ``folder``; the files of data and metrics are absolute in it already.

    A path below the new folder is relative to it. Any other is absolute: `..` out of a folder that is a link
    leads elsewhere than it says.
    """
    move = _Move(_plain(Path(recipe.folder).absolute()), _plain(folder.absolute()))
    if move.old == move.new:
        return recipe
    # What the file leaves out is beside it, wherever it is.
    says_output = "output" in recipe.places or recipe.output != "out"
    return dataclasses.replace(
        recipe,
        model=move.model(recipe.model),
        hosts={name: move.host(spec) for name, spec in recipe.hosts.items()},
        output=move.path(recipe.output) if says_output else recipe.output,
        store=None if recipe.store is None else move.path(recipe.store),
        register=None if recipe.register is None else move.registry(recipe.register),
        folder=str(move.new),
    )


@dataclasses.dataclass(frozen=True)
class _Move:
    """From one absolute folder to another."""

    old: Path
    new: Path

    def path(self, text: str) -> str:
        """Return a path relative to the old folder as one that holds from the new one."""
        if text.startswith("~") or placeholder_in(text) or is_address(text):
            return text
        path = _plain(self.old / text)
        return (path.relative_to(self.new) if path.is_relative_to(self.new) else path).as_posix()

    def model(self, model: ModelSource) -> ModelSource:
        """Return the model with its folder, its adapter's and the file of its workspace."""
        options = dict(model.options)
        if isinstance(options.get(_WORKSPACE), str):
            options[_WORKSPACE] = self.path(options[_WORKSPACE])
        adapter = None if model.adapter is None else self.source(model.adapter)
        return dataclasses.replace(model, uri=self.source(model.uri), adapter=adapter, options=options)

    def source(self, uri: str) -> str:
        """Return what names a folder, or a hub id as it is: `./name` stays a path also where it is below."""
        if not uri or "://" in uri or not (_is_path(uri) or (self.old / uri).exists()):
            return uri
        text = self.path(uri)
        return text if _is_path(text) or (self.new / text).exists() else f"./{text}"

    def host(self, spec: HostSpec) -> HostSpec:
        """Return a host with the paths among its options."""
        try:
            kind = registry.load(spec.type)
        except UnknownName:  # the check says so
            return spec
        return dataclasses.replace(spec, options=self.fields(kind, spec.options))

    def registry(self, register: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `register` with the paths among its fields."""
        try:
            kind = kinds.load(str(register.get("type", kinds.DEFAULT)))
        except UnknownName:
            return register
        return self.fields(kind, register)

    def fields(self, kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of a kind, those that it declares to be paths moved."""
        paths = {item.name for item in fields_of(kind) if item.metadata.get("role") == "path"}
        return {
            name: self.path(value) if name in paths and isinstance(value, str) else value
            for name, value in values.items()
        }


def _is_path(uri: str) -> bool:
    """Say whether an address can be nothing but a path."""
    return uri.startswith((".", "/", "~")) or uri.endswith(".gguf") or not HUB_ID.fullmatch(uri)


def _plain(path: Path) -> Path:
    """Return a path without `..` in it, the links before each of them followed."""
    return path.resolve() if ".." in path.parts else path
