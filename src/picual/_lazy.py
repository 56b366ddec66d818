"""Heavy libraries, only when a step needs them, and a pasteable line when they are not here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from importlib import metadata
from typing import Any

from picual.errors import MissingDependency


def need(module: str, *, extra: str, by: str) -> Any:
    """Import ``module`` or say which extra brings it.

    Args:
        module: Dotted module name.
        extra: The extra of this distribution that installs it.
        by: Who needs it, as the user knows it: a pass, a metric, a command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise  # the module is here, something it imports is not: that is another story
        raise missing(module, extra=extra, by=by) from error


def missing(module: str, *, extra: str, by: str) -> MissingDependency:
    """Return the error for a module that is not installed."""
    return MissingDependency(
        f"`{by}` needs the package `{module}`, which is not installed", hint=f'pip install "picual[{extra}]"'
    )


def is_installed(module: str) -> bool:
    """Say whether ``module`` could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@functools.cache
def version_of(distribution: str) -> str:
    """Return the installed version of a distribution, or ``""``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
