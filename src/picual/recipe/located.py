"""A parsed file as a tree of plain values that know their lines; what both readers build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from picual.errors import BadValue, Problem

DEEPEST = 100  # a recipe nests six or seven levels; a file beyond this is a mistake or an attack


@dataclass
class Located:
    """One value of a file.

    Attributes:
        value: Plain dict, list, str, int, float, bool or None.
        line: Line of its key, or of the value itself in a list; counts from 1.
        parts: The values inside a mapping or a list, by key or index.
    """

    value: Any
    line: int
    parts: dict[str | int, Located] = field(default_factory=dict)

    def line_of(self, path: Sequence[str | int]) -> int:
        """Return the line of the value at ``path``, or of the last part of the path that is there."""
        here = self
        for step in path:
            if step not in here.parts:
                break
            here = here.parts[step]
        return here.line


@dataclass
class Parsed:
    """The tree of one file and the mistakes that do not stop the reading of it."""

    top: Located
    problems: list[Problem] = field(default_factory=list)

    def repeated(self, key: str, first: int, second: int) -> None:
        """Record a key that a mapping holds twice."""
        again = "on the same line" if first == second else f"first on line {first}"
        self.problems.append(
            Problem(
                f"line {second}", f"`{key}` stands here a second time ({again})", f"remove or rename one `{key}`"
            )
        )


def syntax_error(file: str, kind: str, line: int, column: int, what: str, hint: str = "") -> BadValue:
    """Return the error for a place where the text of a file cannot be read on.

    Args:
        file: As the user named it.
        kind: ``JSON`` or ``YAML``.
        line: Counts from 1.
        column: Counts from 1.
        what: What was expected, or found.
        hint: How to mend it.
    """
    return BadValue(
        f"{file} is not valid {kind}: line {line}, column {column}: {what}",
        where=f"{file}:{line}:{column}",
        hint=hint,
    )
