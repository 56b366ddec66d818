"""What a value may be, and how a field of a pass or metric is declared; no sampling here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from picual import fingerprint

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """One of a few values, best guess first."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class IntRange:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class FloatRange:
    """A real number from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False


Domain = Choice | IntRange | FloatRange


class Settings(dict[str, Any]):
    """A mapping as the value of a field, hashable like the pass that holds it. Not to be changed."""

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none; ours is never changed
        """Hash by content."""
        return hash(fingerprint.digest(dict(self)))


def frozen(value: Any) -> Any:
    """Return a JSON value as one that is hashable: lists as tuples, mappings as settings, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, Mapping):
        return Settings({key: frozen(item) for key, item in value.items()})
    return value


def param(default: T, *, help: str, search: Domain | None = None, unit: str = "", role: str = "") -> T:
    """Declare one field of a pass in a single place.

    Args:
        default: Its value when the recipe leaves it out.
        help: What it means, one sentence.
        search: The values a search may try.
        unit: Of a number.
        role: ``data`` when the value names a data set of the recipe; ``training`` for training arguments.
    """
    declared: Any = field(default=default, metadata={"help": help, "search": search, "unit": unit, "role": role})
    return declared  # type: ignore[no-any-return]  # a dataclass field stands for its value


def fields_of(declared: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Return the declared fields of a pass or metric, class or value."""
    return dataclasses.fields(declared)


def values_of(declared: Any) -> dict[str, Any]:
    """Return the fields of a pass or metric as JSON values: its wire form and its cache identity."""
    return {item.name: _plain(getattr(declared, item.name)) for item in fields_of(declared)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
