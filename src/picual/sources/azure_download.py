"""Blobs to files, piece by piece: a cut costs the piece it fell into, and no file is ever held in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from picual.errors import EnvironmentFault
from picual.sources.azure_client import PIECE, Access
from picual.sources.azure_errors import explained
from picual.sources.azure_lookup import Entry, Place


def download(
    place: Place, files: list[Entry], folder: Path, access: Access, *,
    on_bytes: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Write blobs into ``folder`` under their names.

    Args:
        place: Where they lie.
        files: As ``azure_lookup.entries`` lists them.
        folder: Made if need be.
        access: With the patience for each piece.
        on_bytes: Called after each file with the bytes that are there so far.

    Raises:
        EnvironmentFault: A file changed meanwhile, does not arrive whole, or access is refused.
    """
    done = 0
    with explained(place.uri, access.patience):
        opened = _Opened(place)
        for entry in files:
            target = folder / _safe(entry.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _file(opened, entry, target, access)
            done += entry.size
            if on_bytes is not None:
                on_bytes(done)


class _Opened:
    """A container's client, made anew when its signature has run out."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = place.open()

    def read(self, entry: Entry, start: int, size: int) -> bytes:
        """Return one piece.

        Raises:
            HttpResponseError: Refused with a fresh signature too, or anything else that the service says.
        """
        from azure.core.exceptions import HttpResponseError

        try:
            return self._piece(entry, start, size)
        except HttpResponseError as error:
            if error.status_code not in {401, 403}:
                raise
            self._client = self._place.open()  # signatures live for an hour; a large model may take longer
            return self._piece(entry, start, size)

    def _piece(self, entry: Entry, start: int, size: int) -> bytes:
        from azure.core import MatchConditions

        etag = '"' + entry.etag.strip('"') + '"'  # a listing gives it without its quotes
        stream = self._client.download_blob(
            entry.blob, offset=start, length=size, max_concurrency=1, etag=etag,
            match_condition=MatchConditions.IfNotModified,
        )  # fmt: skip
        return bytes(stream.readall())


def _file(opened: _Opened, entry: Entry, target: Path, access: Access) -> None:
    seen = hashlib.md5(usedforsecurity=False)
    start = 0
    with target.open("wb") as file:
        while start < entry.size:
            size = min(PIECE, entry.size - start)
            read = functools.partial(opened.read, entry, start, size)
            piece = _unchanged(entry, functools.partial(access.patience.ask, read))
            if len(piece) != size:
                raise _damaged(entry, f"{len(piece)} bytes instead of {size}")
            file.write(piece)
            seen.update(piece)
            start += size
    if entry.md5 is not None and seen.digest() != entry.md5:
        raise _damaged(entry, "its MD5 is not the one that Azure keeps with it")


def _unchanged(entry: Entry, read: Callable[[], bytes]) -> bytes:
    from azure.core.exceptions import ResourceModifiedError

    try:
        return read()
    except ResourceModifiedError as error:
        raise EnvironmentFault(
            f"`{entry.name}` was changed while it was fetched", hint="run the same command again"
        ) from error


def _damaged(entry: Entry, how: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"`{entry.name}` did not arrive as it is stored ({how})",
        hint="run the same command again; if it says so again, upload the file anew",
    )


def _safe(name: str) -> Path:
    """Return a blob's name as a path inside the folder; a name may hold anything, `..` too.

    Raises:
        EnvironmentFault: It leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise EnvironmentFault(
            f"the blob `{name}` has a name that is no file's", hint="rename it in the container"
        )
    return Path(*path.parts)
