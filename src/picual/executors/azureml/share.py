"""A share in a container of blobs: the driver's end of the folder that a job mounts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from picual.errors import EnvironmentFault
from picual.sources.azure_client import PIECE, Access
from picual.sources.azure_container import OpenContainer


class BlobShare:
    """Blobs by digest and small files, in a folder of a container.

    Args:
        open_container: Makes a client of the container; again, when its signature has run out.
        folder: In it, without slashes at its ends.
        access: With the patience for each call.
        uri: Of the folder, for messages.
    """

    def __init__(self, open_container: Callable[[], Any], folder: str, access: Access, uri: str) -> None:
        self._folder, self._uri = folder, uri
        self._container = OpenContainer(open_container, access, uri)
        self._ask = self._container.ask
        self._known = set[str]()  # digests that are there

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Return which of these blobs are not there."""
        return {digest for digest in digests if not self._has(digest)}

    def put(self, file: Path, digest: str) -> None:
        """Send a file's content, in blocks."""
        self._container.send(file, f"{self._folder}/{_place(digest)}")
        self._known.add(digest)

    def get(self, digest: str, size: int, place: Path) -> None:
        """Bring a blob in pieces, going on where an earlier attempt was cut, and check its digest."""
        part = place.with_name(f"{place.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        here = part.stat().st_size if part.exists() else 0
        with part.open("ab") as file:
            while here < size:
                piece = self._ask(functools.partial(self._piece, digest, here, min(PIECE, size - here)))
                file.write(piece)
                here += len(piece)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            part.unlink()
            raise EnvironmentFault(
                f"blob {digest[:12]} came back as something else", where=self._uri,
                hint="run the same command again: it is fetched anew",
            )  # fmt: skip
        part.replace(place)

    def write(self, name: str, text: str) -> None:
        """Write a small file in one step."""
        self._ask(lambda: self._blob(name).upload_blob(text.encode(), overwrite=True), writes=True)

    def read(self, name: str) -> str | None:
        """Return a small file's text."""
        from azure.core.exceptions import ResourceNotFoundError

        def read() -> bytes | None:
            try:
                return bytes(self._blob(name).download_blob().readall())
            except ResourceNotFoundError:
                return None

        content = self._ask(read)
        return None if content is None else content.decode("utf-8", errors="replace")

    def remove(self, name: str) -> None:
        """Remove a file, or all below a folder."""
        start = f"{self._folder}/{name}"
        for one in self._container.sizes(start):
            if one == start or one.startswith(f"{start}/"):
                self._ask(functools.partial(self._delete, one), writes=True)

    def _delete(self, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self._container.blob(name).delete_blob()
        except ResourceNotFoundError:
            return

    def _piece(self, digest: str, start: int, length: int) -> bytes:
        return bytes(self._blob(_place(digest)).download_blob(offset=start, length=length).readall())

    def _has(self, digest: str) -> bool:
        if digest not in self._known and self._ask(lambda: self._blob(_place(digest)).exists()):
            self._known.add(digest)
        return digest in self._known

    def _blob(self, name: str) -> Any:
        return self._container.blob(f"{self._folder}/{name}")


def _place(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
