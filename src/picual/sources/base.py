"""Where a model comes from, resolved once to files on this machine and a digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from picual.models import Model


@dataclass(frozen=True)
class Fetched:
    """A source made local."""

    model: Model
    digest: str | None  # of the content, 64 hex digits; None: not known until the files are hashed
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """One way to get a model."""

    def locate(self) -> Fetched | None:
        """Return the model when its files are here already: no network, no heavy import, milliseconds."""
        ...

    def fetch(self, folder: Path) -> Model:
        """Bring the model into ``folder`` (empty, in the store) and return the reference. Runs in a worker."""
        ...
