"""A place that a driver and its nodes both see: blobs by digest, and a folder of small files for each job.

    SHARE/blobs/ab/abcdef...      content by SHA-256
    SHARE/jobs/NAME/parcel.json   what to do, with the digests of all it reads
    SHARE/jobs/NAME/events.jsonl, log.txt, result.json
    SHARE/jobs/NAME/scratch/      checkpoints, by generation
    SHARE/code/DIGEST/picual/     the driver's own code

Models never travel any other way. A node copies what it lacks into its own cache; what it makes is put here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from picual import _atomic
from picual.errors import EnvironmentFault

PIECE = 8 << 20  # bytes copied at a time


class Share(Protocol):
    """Where blobs and small files are kept; names are relative, with forward slashes."""

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Return which of these blobs are not here."""
        ...

    def put(self, file: Path, digest: str) -> None:
        """Keep a file's content under its digest."""
        ...

    def get(self, digest: str, size: int, place: Path) -> None:
        """Write a blob to ``place``, whole and of its digest.

        Raises:
            EnvironmentFault: It is not here, or what is here is something else.
        """
        ...

    def write(self, name: str, text: str) -> None:
        """Write a small file in one step."""
        ...

    def read(self, name: str) -> str | None:
        """Return a small file's text, or None if there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder; a missing one is fine."""
        ...


class FolderShare:
    """A folder on a file system that all machines mount, or an object store mounted as one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Return which of these blobs are not here."""
        return {digest for digest in digests if not self.blob(digest).is_file()}

    def put(self, file: Path, digest: str) -> None:
        """Link or copy a file to its blob."""
        bring(file, self.blob(digest))

    def get(self, digest: str, size: int, place: Path) -> None:
        """Link or copy a blob to ``place``, its digest checked."""
        blob = self.blob(digest)
        if not blob.is_file():
            raise EnvironmentFault(
                f"blob {digest[:12]} is not in the share", where=str(self.root),
                hint="run the same command again: what is missing is put there anew",
            )  # fmt: skip
        if blob.stat().st_size != size or bring(blob, place, checked=True) != digest:
            blob.unlink(missing_ok=True)  # half of it: the driver puts it there anew
            place.unlink(missing_ok=True)
            raise EnvironmentFault(
                f"blob {digest[:12]} in the share is damaged; it was removed", where=str(self.root),
                hint="run the same command again: it is put there anew",
            )  # fmt: skip

    def write(self, name: str, text: str) -> None:
        """Write a small file in one step."""
        _atomic.write_text(self.root / name, text)

    def read(self, name: str) -> str | None:
        """Return a small file's text."""
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file or a folder."""
        _atomic.remove(self.root / name)

    def blob(self, digest: str) -> Path:
        """Return where a blob lies."""
        return self.root / "blobs" / digest[:2] / digest


def bring(source: Path, place: Path, *, checked: bool = False) -> str:
    """Put a file's content at ``place`` in one step: by a hard link if that can be, else by a copy.

    Returns:
        Its SHA-256 if ``checked``, 64 hex digits; else ``""``.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".part-")
    os.close(handle)
    part = Path(name)
    part.unlink()
    try:
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without links
            _copy(source, part)
        digest = ""
        if checked:
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return digest


def _copy(source: Path, place: Path) -> None:
    with source.open("rb") as read, place.open("wb") as write:
        shutil.copyfileobj(read, write, PIECE)
        write.flush()
        os.fsync(write.fileno())
    place.chmod(0o444)
