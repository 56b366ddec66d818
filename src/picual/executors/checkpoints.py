"""Checkpoints of a job, kept in a share by generation: a node may die at any instant, also while it keeps one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from picual import _atomic

Stamps = dict[str, tuple[int, int]]  # size and time of the last change, by relative name


class Checkpoints:
    """Mirrors one folder into another, in whole generations.

    Args:
        kept: Folder in the share. It holds a generation a folder, and ``current`` that names the last whole one.
        live: Folder that the job writes.
    """

    def __init__(self, kept: Path, live: Path) -> None:
        self._kept, self._live = kept, live
        self._last: Stamps = {}
        self._generation = self._current()

    def restore(self) -> None:
        """Put the last whole generation into the live folder."""
        if self._generation:
            _atomic.remove(self._live)
            shutil.copytree(self._kept / str(self._generation), self._live)
        self._last = _stamps(self._live)

    def keep(self) -> bool:
        """Keep what the live folder holds, if it changed; say whether it was kept.

        A folder that changes while it is copied is left for the next time: half of one checkpoint and half of
        another would be neither.
        """
        before = _stamps(self._live)
        if before == self._last:
            return False
        following = self._generation + 1
        place = self._kept / str(following)
        _atomic.remove(place)
        try:
            for name, stamp in before.items():
                self._copy(name, place / name, changed=self._last.get(name) != stamp)
        except FileNotFoundError:  # gone while it was copied
            _atomic.remove(place)
            return False
        if _stamps(self._live) != before:
            _atomic.remove(place)
            return False
        _atomic.write_text(self._kept / "current", str(following))
        if self._generation:
            _atomic.remove(self._kept / str(self._generation))
        self._generation, self._last = following, before
        return True

    def _copy(self, name: str, place: Path, *, changed: bool) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not changed and self._generation:
            try:
                os.link(self._kept / str(self._generation) / name, place)
                return
            except OSError:  # a file system without links
                pass
        shutil.copyfile(self._live / name, place)

    def _current(self) -> int:
        try:
            return int((self._kept / "current").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0


def _stamps(folder: Path) -> Stamps:
    found: Stamps = {}
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            continue
    return found
