"""Which kinds of registry there are: a table of strings and the entry points of other packages."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from picual.errors import UnknownName, nearest
from picual.registries.base import Registry

BUILT_IN: dict[str, str] = {"azureml": "picual.registries.azureml:AzureMlModels"}
GROUP = "picual.registries"
DEFAULT = "azureml"  # of a recipe that names no type


def names() -> list[str]:
    """Return every known kind of registry, our own first."""
    return [*BUILT_IN, *(point.name for point in entry_points(group=GROUP) if point.name not in BUILT_IN)]


def load(kind: str) -> type[Registry]:
    """Import and return the class of a kind of registry.

    Raises:
        UnknownName: There is none of that name.
    """
    location = BUILT_IN.get(kind) or {point.name: point.value for point in entry_points(group=GROUP)}.get(kind)
    if location is None:
        raise UnknownName(f"unknown type of registry `{kind}`", hint=nearest(kind, names()))
    module, _, attribute = location.partition(":")
    loaded: type[Registry] = getattr(importlib.import_module(module), attribute)
    assert issubclass(loaded, Registry)
    return loaded
