"""A share in a container of blobs: the driver's end of the folder that a job mounts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from picual.errors import EnvironmentFault
from picual.executors.share import PIECE

PARTS = 4  # blocks under way at a time


class BlobShare:
    """Blobs by digest and small files, in a folder of a container.

    Args:
        container: A client of the container (``azure.storage.blob.ContainerClient``).
        folder: In it, without slashes at its ends.
    """

    def __init__(self, container: Any, folder: str) -> None:
        self._container, self._folder = container, folder
        self._known = set[str]()  # digests that are there

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Return which of these blobs are not there."""
        return {digest for digest in digests if not self._has(digest)}

    def put(self, file: Path, digest: str) -> None:
        """Send a file's content, in blocks that are tried again one by one."""
        with file.open("rb") as content:
            self._blob(_place(digest)).upload_blob(
                content, length=file.stat().st_size, overwrite=True, max_concurrency=PARTS
            )
        self._known.add(digest)

    def get(self, digest: str, size: int, place: Path) -> None:
        """Bring a blob in pieces, going on where an earlier attempt was cut, and check its digest."""
        part = place.with_name(f"{place.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        here = part.stat().st_size if part.exists() else 0
        blob = self._blob(_place(digest))
        with part.open("ab") as file:
            while here < size:
                wanted = min(PIECE, size - here)
                piece = self._piece(blob, here, wanted, digest)
                file.write(piece)
                here += len(piece)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            part.unlink()
            raise EnvironmentFault(
                f"blob {digest[:12]} came back as something else", where=self._folder,
                hint="run the same command again: it is fetched anew",
            )  # fmt: skip
        part.replace(place)

    @staticmethod
    def _piece(blob: Any, start: int, length: int, digest: str) -> bytes:
        from azure.core.exceptions import AzureError

        try:
            piece: bytes = blob.download_blob(offset=start, length=length).readall()
        except AzureError as error:
            raise EnvironmentFault(
                f"blob {digest[:12]} was cut at {start / 1e6:.0f} MB: {type(error).__name__}",
                hint="run the same command again: it goes on from there",
            ) from error
        return piece

    def write(self, name: str, text: str) -> None:
        """Write a small file in one step."""
        self._blob(name).upload_blob(text.encode(), overwrite=True)

    def read(self, name: str) -> str | None:
        """Return a small file's text."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            content: bytes = self._blob(name).download_blob().readall()
        except ResourceNotFoundError:
            return None
        return content.decode("utf-8", errors="replace")

    def remove(self, name: str) -> None:
        """Remove a file, or all below a folder."""
        from azure.core.exceptions import ResourceNotFoundError

        names = [one.name for one in self._container.list_blobs(name_starts_with=f"{self._folder}/{name}")]
        for one in names:
            try:
                self._container.get_blob_client(one).delete_blob()
            except ResourceNotFoundError:
                continue

    def _has(self, digest: str) -> bool:
        if digest not in self._known and self._blob(_place(digest)).exists():
            self._known.add(digest)
        return digest in self._known

    def _blob(self, name: str) -> Any:
        return self._container.get_blob_client(f"{self._folder}/{name}")


def _place(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def error_of(text: str) -> str:
    """Return what a service's JSON answer says went wrong, on one line."""
    try:
        told = json.loads(text)["error"]
        return " ".join(f"{told.get('code', '')}: {told.get('message', '')}".split())
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200]
