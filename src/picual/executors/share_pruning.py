"""What nobody needs any more goes from a share, or from the cache of a node: what is missing is put there anew."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from picual import _atomic

UNUSED_SECONDS = 86_400  # what was not used for so long goes


def prune_share(root: Path, *, unused: float = UNUSED_SECONDS) -> int:
    """Remove blobs and inputs that were not used for a day and that no job under way speaks of.

    Jobs stay: one that has ended is removed when its result is fetched, and until then it can be.

    Args:
        root: Of the share, or of a node's cache.
        unused: Seconds.

    Returns:
        Bytes that no name is left of.
    """
    needed, before = _needed(root), time.time() - unused
    for folder in root.glob("inputs/*/"):
        if max((_last_used(file) for file in _files(folder)), default=0.0) < before:
            _atomic.remove(folder)
    freed = 0
    for blob in root.glob("blobs/??/*"):
        if blob.name in needed or _last_used(blob) >= before:
            continue
        status = blob.stat()
        freed += status.st_size if status.st_nlink == 1 else 0
        _atomic.remove(blob)
    return freed


def _needed(root: Path) -> set[str]:
    """Return the digests that jobs of the share read or made."""
    found = set[str]()
    for file in (*root.glob("jobs/*/parcel.json"), *root.glob("jobs/*/result.json")):
        with contextlib.suppress(OSError, ValueError):
            wire = json.loads(file.read_text(encoding="utf-8"))
            inside = [wire.get("files", {}), *(one["files"] for one in wire.get("inputs", ()))]
            found.update(str(facts["sha256"]) for files in inside for facts in files.values())
    return found


def _last_used(file: Path) -> float:
    """Return when a file was read, written or given one more name, as far as the file system tells."""
    status = file.stat()
    return max(status.st_atime, status.st_mtime, status.st_ctime)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
