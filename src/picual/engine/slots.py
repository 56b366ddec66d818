"""Who may work when: several jobs at a time, each with a worker of its own, or one alone while it is timed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from picual.errors import Interrupted


class Closable(Protocol):
    """What is held while a job runs."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


Held = TypeVar("Held", bound=Closable)


class Slots(Generic[Held]):
    """As many executors as jobs may run at a time. A timing waits for all of them, and they wait for it."""

    def __init__(self, executors: Sequence[Held]) -> None:
        self._all = list(executors)
        self._free = list(executors)
        self._changed = threading.Condition()
        self._closed = False
        self._timings = 0  # that wait or run: nothing new begins before them

    def __len__(self) -> int:
        """Return how many jobs may run at a time."""
        return len(self._all)

    @contextlib.contextmanager
    def shared(self) -> Iterator[Held]:
        """Hold one executor beside others."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._free and not self._timings))
            executor = self._taken()
        try:
            yield executor
        finally:
            self._give_back(executor)

    @contextlib.contextmanager
    def alone(self) -> Iterator[Held]:
        """Hold one executor while none other runs."""
        with self._changed:
            self._timings += 1
            self._changed.wait_for(lambda: self._closed or len(self._free) == len(self._all))
            executor = self._taken()
        try:
            yield executor
        finally:
            with self._changed:
                self._timings -= 1
            self._give_back(executor)

    def close(self) -> None:
        """Stop every worker; nothing new begins."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for executor in self._all:
            executor.close()

    def _taken(self) -> Held:
        if self._closed:
            raise Interrupted("the run was interrupted", hint="the same command continues it")
        return self._free.pop()

    def _give_back(self, executor: Held) -> None:
        with self._changed:
            self._free.append(executor)
            self._changed.notify_all()
