"""Where a model comes from, resolved once to files on this machine and a digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from picual.errors import PicualError
from picual.models import Model


@dataclass(frozen=True)
class Fetched:
    """A source made local."""

    model: Model
    digest: str | None  # of the content, 64 hex digits; None: not known until the files are hashed
    notes: tuple[str, ...] = ()


def needs_network(source: Source) -> bool:
    """Say whether the source's ``key_parts`` would have to ask another machine, which only a run does."""
    return bool(getattr(source, "key_needs_network", False))


class Source(Protocol):
    """One way to get a model."""

    @property
    def fetches(self) -> bool:
        """Say whether a job has to bring the model; False when ``locate`` gives it."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about where the model comes from."""
        ...

    def key_parts(self) -> Mapping[str, Any]:
        """Return what identifies the content for a cache key: digests and versions, no path, no time.

        Where content can be both fetched and located, this equals ``{"content": [digest]}`` with the digest
        that ``locate`` gives, so that the first run and the second agree on the key.
        """
        ...

    def obstacles(self) -> Sequence[PicualError]:
        """Return what would stop ``fetch`` on this machine: asked when ``locate`` gives nothing."""
        ...

    def locate(self) -> Fetched | None:
        """Return the model when its files are here already: no network, no heavy import, milliseconds."""
        ...

    def fetch(self, folder: Path) -> Model:
        """Bring the model into ``folder`` (empty, in the store) and return the reference. Runs in a worker."""
        ...
