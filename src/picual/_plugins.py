"""Members of a kind by name: a table of our own, and the entry points of other packages. Listing imports none."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from picual.errors import UnknownName, nearest


def names(built_in: Mapping[str, str], group: str) -> list[str]:
    """Return every known name, our own first.

    Args:
        built_in: ``module:attribute`` by name.
        group: Of entry points; ours go before theirs of the same name.
    """
    return [*built_in, *(point.name for point in entry_points(group=group) if point.name not in built_in)]


def load(name: str, built_in: Mapping[str, str], group: str, noun: str) -> Any:
    """Import and return a member.

    Raises:
        UnknownName: There is none of that name; the nearest are in the hint.
    """
    location = built_in.get(name) or {point.name: point.value for point in entry_points(group=group)}.get(name)
    if location is None:
        raise UnknownName(f"unknown {noun} `{name}`", hint=nearest(name, names(built_in, group)))
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)
