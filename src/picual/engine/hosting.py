"""The hosts of a run at work: who runs a job, and how many at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.engine.events import EventLog
from picual.engine.slots import Slots
from picual.errors import Interrupted
from picual.executors.base import Executor
from picual.executors.host import Files, Surroundings
from picual.executors.local import Local
from picual.plan import STATE, Site
from picual.sources.digests import DigestMemory
from picual.store.local import Store


class Seat:
    """What one job at a time needs: an executor of each host it may run on, made when it is first wanted."""

    def __init__(self, make: Callable[[Site | None], Executor]) -> None:
        self._make = make
        self._executors: dict[str, Executor] = {}

    def executor(self, site: Site | None) -> Executor:
        """Return the executor of a host; without one, that of this machine."""
        name = "local" if site is None else site.name
        if name not in self._executors:
            self._executors[name] = self._make(site)
        return self._executors[name]

    def close(self) -> None:
        """Stop every worker."""
        for one in self._executors.values():
            one.close()


class Hosting:
    """The hosts of a run. Those on this machine share its room; any other has its own.

    Args:
        store: Which knows the digests of what it holds.
        digests: Which knows those of other files.
        events: Where hosts say what happens.
        executor: Makes what jobs run in on this machine.
        slots: Jobs at a time.
        offline: Whether the network may be used.
    """

    def __init__(
        self, store: Store, digests: DigestMemory, events: EventLog, executor: Callable[[], Executor], *,
        slots: int = 1, offline: bool = False,
    ) -> None:  # fmt: skip
        self._around = Surroundings(
            state=store.root / STATE, files=lambda path: files_of(path, store, digests), offline=offline,
            emit=events.emit,
        )  # fmt: skip
        self._executor, self._count = executor, slots
        self._here = Slots([Seat(self._make) for _ in range(slots)])
        self._elsewhere: dict[str, Slots[Seat]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        """Return how many jobs may run at a time."""
        return self._count

    @contextlib.contextmanager
    def hold(self, site: Site | None, *, alone: bool = False) -> Iterator[Executor]:
        """Hold an executor of a host, beside others or alone; without a host, of this machine.

        A timing elsewhere is left to the host: it knows which of its machines are free.
        """
        slots = self._slots(site)
        with slots.alone() if alone and slots is self._here else slots.shared() as seat:
            yield seat.executor(site)

    def reach(self, sites: Iterable[Site]) -> None:
        """Ask for what is elsewhere before the first job: what is wrong there must not cost hours of work here.

        Raises:
            PicualError: A host cannot be reached, or lacks what the recipe names.
        """
        for site in {site.name: site for site in sites if site.host.elsewhere}.values():
            with self.hold(site):
                pass

    def close(self) -> None:
        """Stop every worker; nothing new begins."""
        with self._lock:
            self._closed = True
        for one in (self._here, *self._elsewhere.values()):
            one.close()

    def _slots(self, site: Site | None) -> Slots[Seat]:
        if site is None or not site.host.elsewhere:
            return self._here
        with self._lock:
            if self._closed:
                raise Interrupted("the run was interrupted", hint="the same command continues it")
            if site.name not in self._elsewhere:
                self._elsewhere[site.name] = Slots([Seat(self._make) for _ in range(self._count)])
            return self._elsewhere[site.name]

    def _make(self, site: Site | None) -> Executor:
        if site is None or isinstance(site.host, Local):
            return self._executor()
        return site.host.executor(self._around)


def files_of(path: Path, store: Store, digests: DigestMemory) -> Files:
    """Return size and digest of every file below a folder, or of one file, by relative name.

    What lies in the store is told from its manifest, anything else is hashed once.
    """
    known: Mapping[str, Mapping[str, Any]] | None = store.files_at(path)
    if known is not None:
        return known
    files = [path] if path.is_file() else fingerprint.files_under(path)
    root = path.parent if path.is_file() else path
    return {
        file.relative_to(root).as_posix(): {"size": file.stat().st_size, "sha256": digests.of(file)}
        for file in files
    }
