"""Whose turn it is at the driver: candidates tried beside each other wait for their workers, not for each other.

A thousand threads that all have something to do take turns a thousand times a second, and the interpreter spends
more on handing over than on work (x3 for 20 of them). So one works at a time and the others sleep until it waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

LARGE = 8_000_000  # bytes: to hash and sync them takes longer than to change places


class Desk:
    """One thread at a time, which leaves while it waits for something else."""

    def __init__(self) -> None:
        # An RLock knows its owner from the moment it is taken, whenever Ctrl-C comes; `threading.Condition` lets
        # go of one in the same way.
        self._lock: Any = threading.RLock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Work at it; whoever is there already stays."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def left(self, *, size: int | None = None) -> Iterator[None]:
        """Let others work at it meanwhile. Everything that may wait for another thread belongs in here.

        Args:
            size: Bytes that are hashed or written meanwhile, when the interpreter is free: for few of them it is
                not worth to change places.
        """
        if (size is not None and size <= LARGE) or not self._lock._is_owned():
            yield
            return
        held = self._lock._release_save()
        try:
            yield
        finally:
            self._lock._acquire_restore(held)
