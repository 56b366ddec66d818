"""Which kinds of host there are: a table of strings and the entry points of other packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from picual.errors import UnknownName, nearest
from picual.executors.host import Host
from picual.space import Settings

BUILT_IN: dict[str, str] = {
    "local": "picual.executors.local:Local",
    "environment": "picual.executors.environment:Environment",
    "docker": "picual.executors.docker:Docker",
    "ray": "picual.executors.ray.host:RayCluster",
    "azureml": "picual.executors.azureml.host:AzureMl",
}
GROUP = "picual.hosts"


def names() -> list[str]:
    """Return every known kind of host, our own first."""
    return [*BUILT_IN, *(point.name for point in entry_points(group=GROUP) if point.name not in BUILT_IN)]


def load(kind: str) -> type[Host]:
    """Import and return the class of a kind of host.

    Raises:
        UnknownName: There is none of that name.
    """
    location = BUILT_IN.get(kind) or {point.name: point.value for point in entry_points(group=GROUP)}.get(kind)
    if location is None:
        raise UnknownName(f"unknown type of host `{kind}`", hint=nearest(kind, names()))
    module, _, attribute = location.partition(":")
    loaded: type[Host] = getattr(importlib.import_module(module), attribute)
    assert issubclass(loaded, Host)
    return loaded


def build(kind: str, options: Mapping[str, Any]) -> Host:
    """Return a host from its JSON form; lists become tuples, so that the value is hashable."""
    return load(kind)(**{key: _frozen(value) for key, value in options.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return Settings({key: _frozen(item) for key, item in value.items()})
    return value
