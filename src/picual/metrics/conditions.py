"""Under what conditions a timing was taken: cores, threads, load, and whether something else was running."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import psutil

BUSY = 0.2  # of a core, used by one other process: enough to show in a timing

SHORTEST = 0.2  # seconds: the system counts in hundredths, which make up most of less


class _Process(NamedTuple):
    name: str
    seconds: float  # on all cores, since it began


class Conditions:
    """Looks at the machine from the first timing to the last."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self._before = _others()
        self._started = time.monotonic()

    def values(self) -> dict[str, Any]:
        """Return what held until now.

        ``busy`` is the part of a core that the busiest other process took; it is there only when that is too much.
        """
        name, used = self._busiest()
        found: dict[str, Any] = {"threads": self._threads, "cores": _cores(), "load_average": round(self._load, 2)}
        return {**found, "busy": round(used, 2), "busy_process": name} if used > BUSY else found

    def _busiest(self) -> tuple[str, float]:
        """Return the other process that used most of a core, and how much of it."""
        passed = max(time.monotonic() - self._started, SHORTEST)
        after = _others()
        used = {
            identity: (process.seconds - self._before.get(identity, _Process("", 0.0)).seconds) / passed
            for identity, process in after.items()
        }
        busiest = max(used, key=lambda identity: used[identity], default=None)
        return ("", 0.0) if busiest is None else (after[busiest].name, used[busiest])


def _others() -> dict[tuple[int, float], _Process]:
    """Return every process but this one and what it started, by number and time of birth."""
    me = psutil.Process()
    mine = {me.pid, *(child.pid for child in me.children(recursive=True))}
    found = {}
    for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
        times = process.info["cpu_times"]
        if process.pid not in mine and times is not None:
            identity = (process.pid, process.info["create_time"])
            found[identity] = _Process(process.info["name"] or "", times.user + times.system)
    return found


def _cores() -> list[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
