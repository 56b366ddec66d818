"""A model is an immutable reference to files on disk plus what they are. Holding one loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Model:
    """Files of one kind in one folder.

    The wire form speaks of two places only, so that it holds on every machine: ``out``, the folder the step
    wrote, and ``in``, the model the step was given.
    """

    kind: ClassVar[str] = "model"
    title: ClassVar[str] = "a model"  # as an error names it

    path: Path

    @property
    def whole(self) -> Path:
        """Return all that a user is handed: more than ``path`` where that is a part of a larger folder."""
        return self.path

    def to_wire(self, folder: Path | None = None, given: Model | None = None) -> dict[str, Any]:
        """Return the JSON form relative to ``folder``, or absolute; ``given`` is the step's input model."""
        if given is not None and self == given:
            return {"kind": "in"}
        path = self.path.absolute() if folder is None else self.path.relative_to(folder)
        return {"kind": self.kind, "path": path.as_posix()}

    @classmethod
    def from_parts(cls, wire: Mapping[str, Any], folder: Path, given: Model | None) -> Model:
        """Build the reference from its wire form; subclasses with parts extend it."""
        return cls(folder / wire["path"])


def model_from_wire(wire: Mapping[str, Any], folder: Path, given: Model | None = None) -> Model:
    """Rebuild a model reference from its JSON form.

    Args:
        wire: What ``Model.to_wire`` made.
        folder: Where the step's output lies now.
        given: The step's input model, wherever it lies now.
    """
    from picual.models import KINDS

    if wire["kind"] == "in":
        if given is None:
            raise ValueError("the wire form speaks of an input model, and there is none")
        return given
    return KINDS[wire["kind"]].from_parts(wire, folder, given)
