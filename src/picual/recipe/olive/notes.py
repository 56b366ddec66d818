"""The account of one config: what became of every value in it, and which of them are mistakes.

Whoever reads a value says so here. What nobody read gets a note at the end, so that no value of a config is lost
without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from picual.errors import BadValue, Problem
from picual.recipe.document import Document
from picual.recipe.schema import Note, Place
from picual.recipe.secrets import without_secrets
from picual.recipe.spots import spot

Path_ = tuple[str | int, ...]
Kind = Literal["mapped", "defaulted", "ignored", "replaced", "later"]
Reason = tuple[Kind, str]
UNKNOWN: Reason = ("ignored", "not a key that Olive or Picual gives a meaning to here")


class Ledger:
    """Notes and problems of one config, by the path of the value they are about."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self._notes: dict[Path_, Note] = {}
        self._opened: dict[Path_, Reason | None] = {}

    def note(self, path: Path_, kind: Kind, text: str) -> None:
        """Say what became of the value at ``path`` and of all inside it; the last word counts."""
        self._notes[path] = Note(path=dotted(path), kind=kind, text=without_secrets(text))

    def mapped(self, path: Path_, to: str) -> None:
        """Say where the value at ``path`` went; ``to`` is a path of the native form, or a sentence."""
        self.note(path, "mapped", to if " " in to else f"becomes `{to}`")

    def problem(self, path: Path_, what: str, hint: str = "") -> None:
        """Record a mistake, and that the value at ``path`` was not used."""
        problem = Problem(spot(self.place(path), path=dotted(path)), without_secrets(what), without_secrets(hint))
        if problem not in self.problems:
            self.problems.append(problem)
        self.note(path, "ignored", what)

    def left_out(self, path: Path_, text: str) -> None:
        """Say that the value at ``path`` is not used, in place of what was said of the parts inside."""
        self._notes = {one: note for one, note in self._notes.items() if one[: len(path)] != path}
        self.note(path, "ignored", text)

    def opened(self, path: Path_, rest: Reason | None = None) -> None:
        """Say that the mapping or list at ``path`` is read part by part.

        Args:
            path: Of the mapping or list.
            rest: What to say of its parts that nobody reads; None for what holds one level above.
        """
        if rest is not None or path not in self._opened:
            self._opened[path] = rest

    def is_told(self, path: Path_) -> bool:
        """Say whether something is recorded of the value at ``path``."""
        return path in self._notes

    def is_opened(self, path: Path_) -> bool:
        """Say whether the value at ``path`` is read part by part."""
        return path in self._opened

    def place(self, path: Path_) -> Place:
        """Return where the value at ``path`` stands in the file."""
        return self.document.place(path)

    def wrong_shape(self, path: Path_, wanted: str) -> BadValue:
        """Return the error for a part of the config that is not what its name promises."""
        return BadValue(
            f"`{dotted(path)}` must be {wanted}",
            where=str(self.place(path)),
            hint="a config is made of mappings: `input_model`, `systems`, `passes`, `engine`",
        )

    def close(self) -> tuple[Note, ...]:
        """Return all notes in the order of the file, those on unread values included."""
        above = {path[:depth] for path in self._notes for depth in range(len(path))}
        for path, (kind, text) in list(self._unread((), self.document.value, UNKNOWN, above)):
            self.note(path, kind, text)
        order = {path: number for number, path in enumerate(_paths((), self.document.value))}

        def position(path: Path_) -> int:
            return next(order[path[:depth]] for depth in range(len(path), -1, -1) if path[:depth] in order)

        return tuple(note for path, note in sorted(self._notes.items(), key=lambda entry: position(entry[0])))

    def _unread(
        self, path: Path_, value: Any, reason: Reason, above: set[Path_]
    ) -> Iterator[tuple[Path_, Reason]]:
        if path in self._notes:
            return
        reason = self._opened.get(path) or reason
        parts = _parts(value)
        scattered = not path or path in above or path in self._opened
        if not scattered or not parts:
            if path or parts:
                yield path, reason
            return
        if isinstance(value, list) and len(parts) < len(value):
            yield path, reason
        for key, part in parts:
            yield from self._unread((*path, key), part, reason, above)


def dotted(path: Path_) -> str:
    """Return a path as `passes.lora.config.r`; places in a list are numbers from 0."""
    return ".".join(str(part) for part in path)


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    """Return what is inside a mapping, or the mappings and lists inside a list: plain items count as the list."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list):
        return [(index, item) for index, item in enumerate(value) if isinstance(item, dict | list)]
    return []


def _paths(path: Path_, value: Any) -> Iterator[Path_]:
    yield path
    for key, part in _parts(value):
        yield from _paths((*path, key), part)
