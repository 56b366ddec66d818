"""Digests of local files, remembered by path, size, time and inode: a file is hashed once, not once a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from picual import _atomic, fingerprint
from picual.sources.files import model_files

# A file changed twice within one tick of the file system's clock looks unchanged: so young a file is hashed anew.
TICK = 20_000_000  # nanoseconds
LINES_TO_SPARE = 1000  # superseded lines that are kept before the memory is written anew


class DigestMemory:
    """SHA-256 of local files, kept in a file of JSON lines that several processes may share.

    A line is written with one append, so a reader sees it whole; what cannot be read is forgotten and hashed
    again. The memory is a convenience: losing it costs time, never correctness.

    Args:
        path: The memory's own file, made when the first digest is remembered; None keeps them in this object.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lines: dict[str, tuple[list[int], str]] | None = None

    def known(self, file: Path) -> str | None:
        """Return the digest of a file if it has not changed since it was hashed."""
        entry = self._read().get(_name(file))
        return entry[1] if entry is not None and file.is_file() and entry[0] == _stamp(file) else None

    def of(self, file: Path) -> str:
        """Return the digest of a file, hashing it (about 2 s a gigabyte) if it is not remembered."""
        known = self.known(file)
        if known is not None:
            return known
        before = _stamp(file)
        digest = fingerprint.file_digest(file)
        if before == _stamp(file) and time.time_ns() - before[1] > TICK:
            self._remember(file, before, digest)
        return digest

    def folder(self, folder: Path, files: Iterable[Path] | None = None) -> str:
        """Return one digest for a model's folder: of ``files``, or of those that are the model."""
        chosen = model_files(folder) if files is None else files
        return fingerprint.folder_digest({_relative(file, folder): self.of(file) for file in chosen})

    def known_folder(self, folder: Path, files: Iterable[Path] | None = None) -> str | None:
        """Return what ``folder`` would, or None if a file would have to be hashed for it."""
        digests: dict[str, str] = {}
        for file in model_files(folder) if files is None else files:
            digest = self.known(file)
            if digest is None:
                return None
            digests[_relative(file, folder)] = digest
        return fingerprint.folder_digest(digests)

    def _remember(self, file: Path, stamp: list[int], digest: str) -> None:
        self._read()[_name(file)] = (stamp, digest)
        if self.path is not None:
            _append(self.path, {"file": _name(file), "stamp": stamp, "sha256": digest})

    def _read(self) -> dict[str, tuple[list[int], str]]:
        if self._lines is None:
            self._lines = {}
            lines = _lines_of(self.path)
            for line in lines:
                self._take(line)
            if self.path is not None and len(lines) > 2 * len(self._lines) + LINES_TO_SPARE:
                self._write_anew(self.path)
        return self._lines

    def _take(self, line: bytes) -> None:
        assert self._lines is not None
        try:
            entry: dict[str, Any] = json.loads(line)
            digest = str(entry["sha256"])
            bytes.fromhex(digest)
            stamp = [int(number) for number in entry["stamp"]]
        except (ValueError, KeyError, TypeError):
            return
        if len(digest) == 64 and len(stamp) == 3:
            self._lines[str(entry["file"])] = (stamp, digest)

    def _write_anew(self, path: Path) -> None:
        """Drop superseded lines. What another process adds meanwhile is lost, and hashed again."""
        assert self._lines is not None
        lines = [json.dumps({"file": f, "stamp": s, "sha256": d}) + "\n" for f, (s, d) in self._lines.items()]
        _atomic.write_text(path, "".join(lines))


def _lines_of(path: Path | None) -> list[bytes]:
    if path is None:
        return []
    try:
        return [line for line in path.read_bytes().splitlines() if line]
    except OSError:  # not there yet, or not ours to read: start anew
        return []


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line in one write. The line feed goes before it: half a line left by a crash must not swallow it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, b"\n" + json.dumps(entry).encode() + b"\n")
    finally:
        os.close(handle)


def _name(file: Path) -> str:
    return str(file.absolute())


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder if folder.is_dir() else folder.parent).as_posix()


def _stamp(file: Path) -> list[int]:
    """Return size, time of the last change and inode."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
