"""Which kinds of host there are: a table of strings and the entry points of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual import _plugins
from picual.executors.host import Host
from picual.space import frozen

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
    return _plugins.names(BUILT_IN, GROUP)


def load(kind: str) -> type[Host]:
    """Import and return the class of a kind of host.

    Raises:
        UnknownName: There is none of that name.
    """
    loaded: type[Host] = _plugins.load(kind, BUILT_IN, GROUP, "type of host")
    assert issubclass(loaded, Host)
    return loaded


def build(kind: str, options: Mapping[str, Any]) -> Host:
    """Return a host from its JSON form; lists become tuples, so that the value is hashable."""
    return load(kind)(**{key: frozen(value) for key, value in options.items()})
