"""Who drives a run: a process that others can ask after, stop, and put in place of one that died.

OUT/run/driver.json    its process, its command, and when it began; removed when it ends in order
OUT/run/driver.log     what it said, if it runs detached
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from picual import _atomic
from picual.engine.events import EventLog
from picual.errors import BadValue, Busy, Interrupted, PicualError

FILE = "driver.json"
LOG = "driver.log"
EVENTS = Path("run", "events.jsonl")  # in the output folder


@dataclass(kw_only=True)
class Standing:
    """How a run stands, read off its folder."""

    state: str  # running | ended | died: its driver is gone and did not say how it ended
    verdict: str = ""
    step: str = ""
    number: int = 0
    of: int = 0
    progress: str = ""
    trials: int = 0
    remote: dict[str, str] = field(default_factory=dict)  # by step: jobs elsewhere that may not have ended
    command: list[str] = field(default_factory=list)
    folder: str = ""  # that the command was given in
    store: str = ""  # that it worked with


@contextlib.contextmanager
def driving(output: Path, store: Path) -> Iterator[None]:
    """Say, while a run is under way, that this process drives it, and with which store.

    Raises:
        Busy: Another process drives one in this folder.
    """
    known = _driver(output)
    if known is not None and known["pid"] != os.getpid() and _alive(known):
        raise Busy(
            f"pid {known['pid']} drives a run in this folder", where=str(output),
            hint="wait for it, or give another folder: `-o DIR`",
        )  # fmt: skip
    file = output / "run" / FILE
    facts = {
        "pid": os.getpid(), "since": time.time(), "began": psutil.Process().create_time(),
        "command": [sys.executable, "-m", "picual.cli.main", *sys.argv[1:]], "folder": str(Path.cwd()),
        "store": str(store.absolute()),
    }  # fmt: skip
    with terminated_as_interrupted():
        _atomic.write_json(file, facts)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, which systemd, Slurm and `timeout` send, for Ctrl-C: jobs are stopped, a report is written."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def beginning(output: Path) -> Iterator[None]:
    """Record that a run is under way before its first step: making environments and fetching a model take long.

    What stops it there is recorded as well: else the run before would seem to be the last one.
    """
    events = EventLog(output / EVENTS)
    events.emit("run", status="start", steps=[])
    try:
        yield
    except (PicualError, KeyboardInterrupt) as error:
        status = type(error).__name__ if isinstance(error, PicualError) else Interrupted.__name__
        events.emit("run", status=status, seconds=0.0)
        raise
    finally:
        events.close()


def recorded(output: Path) -> int:
    """Return the bytes that are recorded of the runs in an output folder."""
    file = output / EVENTS
    return file.stat().st_size if file.exists() else 0


def standing(output: Path) -> Standing:
    """Return how the run in an output folder stands.

    Raises:
        BadValue: There is no run.
    """
    events = output / EVENTS
    if not events.exists():
        raise BadValue(f"there is no run in `{output}`", hint="`picual runs` lists those that ended")
    known = _driver(output)
    found = Standing(state="ended" if known is None else "running" if _alive(known) else "died")
    if known is not None:
        found.command, found.folder = list(known["command"]), str(known["folder"])
        found.store = str(known.get("store", ""))
    for event in _since_the_last_start(events):
        _take(found, event)
    if found.state == "ended" and not found.verdict:
        found.state = "died"
    return found


def stop(output: Path) -> bool:
    """Ask the driver of a run to stop, as Ctrl-C does; say whether there was one.

    By SIGTERM: a process that a script has put into the background takes no SIGINT.
    """
    known = _driver(output)
    if known is None or not _alive(known):
        return False
    os.kill(int(known["pid"]), signal.SIGTERM)
    return True


def _driver(output: Path) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads((output / "run" / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _alive(known: Mapping[str, Any]) -> bool:
    """Say whether the very process is there, and not another that was given its number."""
    try:
        process = psutil.Process(int(known["pid"]))
        return abs(process.create_time() - float(known["began"])) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _since_the_last_start(events: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in events.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line of a driver that died
            continue
        if event.get("event") == "run" and event.get("status") == "start":
            found = []
        found.append(event)
    return found


def _take(found: Standing, event: Mapping[str, Any]) -> None:
    match event["event"]:
        case "run" if event["status"] != "start":
            found.verdict = str(event["status"])
        case "step":
            found.step, found.number, found.of = str(event["step"]), int(event["number"]), int(event["of"])
            found.progress = "" if event["status"] == "start" else str(event["status"])
        case "progress":
            share = float(event["done"]) / max(float(event["total"]), 1e-9)
            found.progress = f"{event['step']}: {share:.0%} {event['note']}".rstrip()
        case "trial" if event["status"] == "done":
            found.trials += 1
        case "submitted":
            found.remote[str(event["step"])] = str(event["job"])
        case "remote" if event["status"] in {"Completed", "Failed", "Canceled"}:
            found.remote.pop(str(event["step"]), None)
