"""What nobody needs any more goes from a share, or from the cache of a node: what is missing is put there anew."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from picual import _atomic

DIGIT = "[0-9a-f]"
UNUSED_SECONDS = 86_400  # what was not used for so long goes


def prune_share(root: Path, *, unused: float = UNUSED_SECONDS) -> int:
    """Remove blobs and inputs that were not used for a day and that no job under way speaks of.

    Jobs stay: one that has ended is removed when its result is fetched, and until then it can be. So does whatever
    is not called by a digest: the folder may be another than was meant.

    Args:
        root: Of the share, or of a node's cache.
        unused: Seconds.

    Returns:
        Bytes that no name is left of.
    """
    before = time.time() - unused
    under_way = [_text(file) for file in root.glob("work/*/job.json")]  # of a node: it names its inputs' folders
    for folder in root.glob(f"inputs/{DIGIT * 32}/"):
        used = max((_last_used(file) for file in _files(folder)), default=0.0)
        if used < before and not any(folder.name in text for text in under_way):
            _atomic.remove(folder)
    needed, freed = _needed(root), 0
    for blob in root.glob(f"blobs/??/{DIGIT * 64}"):
        with contextlib.suppress(FileNotFoundError):  # another was faster
            if blob.name not in needed and _last_used(blob) < before:
                status = blob.stat()
                freed += status.st_size if status.st_nlink == 1 else 0
                _atomic.remove(blob)
    return freed


def _needed(root: Path) -> set[str]:
    """Return the digests that jobs of the share read or made."""
    found = set[str]()
    for file in (*root.glob("jobs/*/parcel.json"), *root.glob("jobs/*/result.json")):
        with contextlib.suppress(ValueError):
            wire = json.loads(_text(file))
            inside = [wire.get("files", {}), *(one["files"] for one in wire.get("inputs", ()))]
            found.update(str(facts["sha256"]) for files in inside for facts in files.values())
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:  # its job has just ended
        return ""


def _last_used(file: Path) -> float:
    """Return when a file was read, written or given one more name, as far as the file system tells."""
    status = file.stat()
    return max(status.st_atime, status.st_mtime, status.st_ctime)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
