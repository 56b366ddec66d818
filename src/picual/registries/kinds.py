"""Which kinds of registry there are: a table of strings and the entry points of other packages."""

from __future__ import annotations

from picual import _plugins
from picual.registries.base import Registry

BUILT_IN: dict[str, str] = {"azureml": "picual.registries.azureml:AzureMlModels"}
GROUP = "picual.registries"
DEFAULT = "azureml"  # of a recipe that names no type


def names() -> list[str]:
    """Return every known kind of registry, our own first."""
    return _plugins.names(BUILT_IN, GROUP)


def load(kind: str) -> type[Registry]:
    """Import and return the class of a kind of registry.

    Raises:
        UnknownName: There is none of that name.
    """
    loaded: type[Registry] = _plugins.load(kind, BUILT_IN, GROUP, "type of registry")
    assert issubclass(loaded, Registry)
    return loaded
