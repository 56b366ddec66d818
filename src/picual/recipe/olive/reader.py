"""One object of a config, whichever way it is spelled: nested under `config`, flat, or half and half."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from picual.errors import nearest
from picual.recipe.olive.notes import Kind, Ledger, Path_, Reason, dotted
from picual.recipe.placeholders import placeholder_in
from picual.recipe.secrets import is_kept_quiet, without_secrets

Fitted = TypeVar("Fitted")
_WHOLE = re.compile(r"[+-]?\d{1,30}(\.0{1,30})?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
NESTED = ("config", "params", "type_args")  # what the nested mapping of an object is called


@dataclass(frozen=True)
class Found:
    """A value and where it stands."""

    path: Path_
    value: Any


class Reader:
    """Several mappings seen as one: the first that has a key wins, the others' value is noted as shadowed.

    Every ``take``-like method records where the value went. A value of the wrong type becomes a problem and
    counts as left out; so does null, without a problem.
    """

    def __init__(self, ledger: Ledger, layers: Iterable[Found], *, rest: Reason | None = None) -> None:
        self.ledger = ledger
        self.layers = [layer for layer in layers if isinstance(layer.value, Mapping)]
        for layer in self.layers:
            ledger.opened(layer.path, rest)

    def find(self, *names: str) -> Found | None:
        """Return the value of the first of ``names`` that is there; nothing is recorded of it."""
        found = [one for name in names for layer in self.layers if (one := _lookup(layer, name)) is not None]
        for other in found[1:]:
            if other.path != found[0].path and not self.ledger.is_told(other.path):
                self.ledger.note(other.path, "ignored", f"`{dotted(found[0].path)}` says it already")
        return found[0] if found else None

    def find_type(self) -> Found | None:
        """Return the `type` of the object itself: one inside its nested mapping is a parameter of that name."""
        outer = [layer for layer in self.layers if not layer.path or layer.path[-1] not in NESTED]
        return Reader(self.ledger, outer).find("type")

    def has(self, *names: str) -> bool:
        """Say whether one of ``names`` is there; nothing is recorded."""
        return any(_lookup(layer, name) is not None for name in names for layer in self.layers)

    def take(self, *names: str, to: str) -> Any:
        """Return the value as it is, and record that it becomes ``to``."""
        found = self.given(*names)
        if found is None:
            return None
        self.ledger.mapped(found.path, to)
        return found.value

    def given(self, *names: str) -> Found | None:
        """Return a value that is there and not null."""
        found = self.find(*names)
        if found is not None and found.value is None:
            self.ledger.note(found.path, "mapped", "null: the same as leaving it out")
            return None
        return found

    def text(self, *names: str, to: str) -> str | None:
        """Take a text; a number does for one (`version: 11`)."""
        return self._fitting(names, to, _text, "text")

    def whole(self, *names: str, to: str) -> int | None:
        """Take a whole number."""
        return self._fitting(names, to, whole_number, "a whole number")

    def flag(self, *names: str, to: str) -> bool | None:
        """Take true or false."""
        return self._fitting(names, to, flag_of, "true or false")

    def texts(self, *names: str, to: str) -> list[str] | None:
        """Take a list of texts; one text does for a list of one."""
        return self._fitting(names, to, _texts, "text or a list of texts")

    def child(self, *names: str, nested: str | None = "config", rest: Reason | None = None) -> Reader | None:
        """Return the reader of a mapping inside this one, if it is there."""
        found = self.given(*names)
        if found is None:
            return None
        if not isinstance(found.value, Mapping):
            self.wrong_type(found, "a mapping")
            return None
        return object_reader(self.ledger, found, nested=nested, rest=rest)

    def drop(self, name: str, kind: Kind, text: str, *, again: bool = False) -> None:
        """Note why a value has no effect, if it is there and nothing is noted of it, or ``again``."""
        for layer in self.layers:
            found = _lookup(layer, name)
            if found is not None and (again or not self.ledger.is_told(found.path)):
                self.ledger.note(found.path, kind, text)

    def drop_all(self, reasons: Mapping[str, Reason]) -> None:
        """Note for each of several values why it has no effect."""
        for name, (kind, text) in reasons.items():
            self.drop(name, kind, text)

    def wrong_type(self, found: Found, wanted: str) -> None:
        """Record a value that is not of its type."""
        name = str(found.path[-1])
        if left := placeholder_in(found.value):
            self.ledger.problem(
                found.path, f"`{name}` still holds the placeholder `{left}`", f"replace `{left}` by {wanted}"
            )
        else:
            shown = without_secrets(str(found.value))
            shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
            said = "a text that is not shown" if is_kept_quiet(name, found.value) else f"`{shown}`"
            self.ledger.problem(found.path, f"`{name}` is {said}; it must be {wanted}")

    def unknown(self, known: Iterable[str], owner: str, used: Iterable[str]) -> None:
        """Note every key that is neither taken nor dropped: its nearest known names, where there are some."""
        done = set(used)
        for layer in self.layers:
            for key, value in layer.value.items():
                path = (*layer.path, key)
                if (
                    key in done
                    or self.ledger.is_told(path)
                    or (isinstance(value, Mapping) and self.ledger.is_opened(path))
                ):
                    continue
                hint = nearest(key, list(known))
                more = f"; {hint}" if hint.startswith("did you mean") else ""
                self.ledger.note(path, "ignored", f"{owner} has no `{key}`{more}")

    def merged(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """Return all values as one mapping, as Olive would see it."""
        left_out = set(without)
        values: dict[str, Any] = {}
        for layer in self.layers:
            values |= {
                key: value for key, value in layer.value.items() if key not in values and key not in left_out
            }
        return values

    def _fitting(
        self, names: tuple[str, ...], to: str, fit: Callable[[Any], Fitted | None], wanted: str
    ) -> Fitted | None:
        found = self.given(*names)
        if found is None:
            return None
        value = fit(found.value)
        if value is None:
            self.wrong_type(found, wanted)
            return None
        self.ledger.mapped(found.path, to)
        return value


def object_reader(
    ledger: Ledger, found: Found, *, nested: str | None = "config", rest: Reason | None = None
) -> Reader:
    """Return the reader of one object: its ``nested`` mapping first, then its own level."""
    layers = [found]
    if nested is not None and isinstance(found.value, Mapping):
        inner = found.value.get(nested)
        if isinstance(inner, Mapping):
            layers = [Found((*found.path, nested), inner), found]
        elif nested in found.value:
            ledger.note((*found.path, nested), "ignored", f"`{nested}` is not a mapping, so nothing is in it")
    return Reader(ledger, layers, rest=rest)


def word(value: Any) -> str:
    """Return a type name as Olive compares it: lower case, no blanks around; empty for anything else."""
    return value.strip().lower() if isinstance(value, str) else ""


def whole_number(value: Any) -> int | None:
    """Return a whole number, also one that is written as text or as `2.0`."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return None


def number_of(value: Any) -> float | None:
    """Return a finite number, also one that is written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def flag_of(value: Any) -> bool | None:
    """Return true or false, also where it is written in one of the ways that Olive takes."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(word(value))


def unquoted(value: Any) -> Any:
    """Return a text that is nothing but a number, true or false as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    if word(value) in {"true", "false"}:
        return word(value) == "true"
    whole = whole_number(value)
    if whole is not None and "." not in value:
        return whole
    number = number_of(value) if _NUMBER.fullmatch(value.strip()) else None
    return value if number is None else number


def _lookup(layer: Found, name: str) -> Found | None:
    if name in layer.value:
        return Found((*layer.path, name), layer.value[name])
    for key, value in layer.value.items():
        if word(key) == name.lower():
            return Found((*layer.path, key), value)
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(value)
    return None
