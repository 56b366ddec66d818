"""Whose turn it is at the driver: candidates tried beside each other wait for their workers, not for each other.

A thousand threads that all have something to do take turns a thousand times a second, and the interpreter spends
more on handing over than on work (x3 for 20 of them). So one works at a time and the others sleep until it waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Desk:
    """One thread at a time, which leaves while it waits for something else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Work at it; whoever is there already stays."""
        mine = self._owner == threading.get_ident()
        if not mine:
            self._take()
        try:
            yield
        finally:
            if not mine:
                self._leave()

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Let others work at it meanwhile. Everything that may wait for another thread belongs in here."""
        mine = self._owner == threading.get_ident()
        if mine:
            self._leave()
        try:
            yield
        finally:
            if mine:
                self._take()

    def _take(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()

    def _leave(self) -> None:
        if self._owner == threading.get_ident():  # else Ctrl-C kept this thread from coming back
            self._owner = None
            self._lock.release()
