"""Pieces of work as jobs: each done once, under its key, by whoever may run it, and published."""

from __future__ import annotations

import contextlib
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from picual import _atomic, fingerprint
from picual.engine.desk import Desk
from picual.engine.events import EventLog
from picual.engine.hosting import Hosting
from picual.engine.piece import Piece
from picual.errors import from_wire
from picual.executors import chain
from picual.executors.base import Executor
from picual.executors.job import Job, Result
from picual.plan import Plan, memory_allowed
from picual.store.local import Entry, Store

SHARED_WAIT = 600.0  # seconds
Held = TypeVar("Held")


class Jobs:
    """What turns pieces of work into entries of the store.

    Attributes:
        worked: Whether any job ran; False: everything was there already.
        desk: Left while a job runs, or waits to.
    """

    def __init__(
        self, store: Store, hosts: Hosting, events: EventLog, logs: Path, *, offline: bool, fresh: bool
    ) -> None:
        self.store, self.hosts, self.events, self.logs = store, hosts, events, logs
        self.offline, self.fresh = offline, fresh
        self.worked = False
        self._again = set[str]()  # keys that were done again in this run
        self._gathered = set[str]()  # keys that one job with others made in this run
        self._failed: dict[str, Mapping[str, Any]] = {}  # what stopped such a job, by its piece
        self.desk = Desk()
        # Candidates beside each other share steps. A lock is gone with the last thread that knows it.
        self._locks = weakref.WeakValueDictionary[str, threading.Lock]()

    def once(self, plan: Plan, piece: Piece) -> tuple[Entry, bool]:
        """Return the entry of a piece of work, and whether it had to be done."""
        key = piece.key
        # What runs share is waited for: two that begin together need it at the same time.
        wait = SHARED_WAIT if piece.kind == "prepare" else 0
        with self._entered(self._locks.setdefault(key, threading.Lock())):
            if self.fresh and piece.kind != "fetch":
                self._forget(key)
            entry = self.store.find(key)
            if entry is not None:
                return entry, key in self._gathered
            if key in self._failed:
                raise from_wire(self._failed.pop(key))
            with self._entered(self.store.lock(key, what=f"`{piece.name}`", wait=wait)):
                entry = self.store.find(key)  # another run may have finished it while we waited for nothing
                if entry is not None:
                    return entry, False
                self.worked = True
                with self._entered(self.hosts.hold(piece.site, alone=piece.alone)) as executor:
                    folder, result = self._do(plan, executor, piece)
                (folder / "out").mkdir(exist_ok=True)  # elsewhere a measurement makes no files
                return self._publish(plan, piece, folder / "out", result), True

    def is_done(self, key: str) -> bool:
        """Say whether a piece of work needs no job in this run."""
        return self.store.find(key) is not None and (not self.fresh or key in self._again)

    def is_settled(self, key: str) -> bool:
        """Say whether a piece of work was done, or stopped a job of several."""
        return key in self._failed or self.is_done(key)

    def together(self, plan: Plan, pieces: Sequence[Piece]) -> bool:
        """Do several pieces as one job and publish each that was done; False: another did one of them meanwhile.

        What stopped one of them is raised when that piece is asked for: those before it have their say first.

        Raises:
            PicualError: What stopped the whole job.
        """
        links = [{"kind": one.kind, "label": one.name, "payload": dict(one.payload)} for one in pieces]
        whole = Piece(
            "chain", _name_of(pieces), "chain", {"chain": [one.key for one in pieces]},
            {"links": links}, tuple(dict.fromkeys(path for one in pieces for path in one.reads)), pieces[0].site,
            alone=any(one.alone for one in pieces), memory=max(one.memory for one in pieces),
        )  # fmt: skip
        with contextlib.ExitStack() as held:
            for one in sorted(pieces, key=lambda one: one.key):  # in one order, whoever else takes them
                held.enter_context(self._entered(self._locks.setdefault(one.key, threading.Lock())))
                if self.fresh:
                    self._forget(one.key)
                if self.store.find(one.key) is not None:
                    return False
                held.enter_context(self._entered(self.store.lock(one.key, what=f"`{one.name}`")))
            self.worked = True
            executor = held.enter_context(self._entered(self.hosts.hold(whole.site, alone=whole.alone)))
            folder, result = self._do(plan, executor, whole)
            for number, (one, found) in enumerate(zip(pieces, result.value["results"], strict=False)):
                if "error" in found:
                    self._failed[one.key] = found["error"]
                    break
                own = replace(result, value=found["value"], seconds=found["seconds"])
                content = chain.content_of(folder, number)
                content.mkdir(parents=True, exist_ok=True)  # a check makes no files
                self._publish(plan, one, content, own)
                self._gathered.add(one.key)
            _atomic.remove(folder)
        return True

    @contextlib.contextmanager
    def _entered(self, waits: contextlib.AbstractContextManager[Held]) -> Iterator[Held]:
        """Enter what may be held by another thread, which may need the desk to let go of it."""
        with contextlib.ExitStack() as held:
            with self.desk.left():
                entered = held.enter_context(waits)
            yield entered

    def _forget(self, key: str) -> None:
        """Set a finished piece of work aside, once a run, and let go of an interrupted one's checkpoints."""
        if key in self._again:
            return
        self._again.add(key)
        if self.store.find(key) is not None:
            self.store.set_aside(key)
        self.store.drop_work(key)

    def _do(self, plan: Plan, executor: Executor, piece: Piece) -> tuple[Path, Result]:
        """Run a piece of work as a job; return its folder and how it ended well."""
        folder = self.store.work(piece.key)
        _atomic.remove(folder / "out")  # half a result of an interrupted run; its checkpoints are in scratch
        site = piece.site or plan.sites["local"]
        job = Job(
            kind=piece.kind, label=piece.name, payload=piece.payload, seed=plan.recipe.seed, threads=site.threads,
            memory_limit=None if site.host.elsewhere else memory_allowed(plan.machine), memory=piece.memory,
            offline=self.offline, trust=plan.recipe.trust, log_level=plan.recipe.log_level, alone=piece.alone,
            device=site.device if site.host.exact else "", reads=piece.reads,
            libraries=piece.ingredients.get("libraries", {}) if site.host.exact else {},
        )  # fmt: skip
        job.write(folder)
        try:
            with self.desk.left():
                result = executor.run(folder, self.events.forward)
        finally:
            self._keep_log(folder, f"{piece.name} {folder.name[:8]}" if plan.search is not None else piece.name)
        if result.error is not None:
            raise from_wire(result.error)
        return folder, result

    def _publish(self, plan: Plan, piece: Piece, content: Path, result: Result) -> Entry:
        site = piece.site or plan.sites["local"]
        with self.desk.left(size=sum(file.stat().st_size for file in fingerprint.files_under(content))):
            return self.store.publish(
                content, ingredients=piece.ingredients, label=piece.label, value=result.value,
                seconds=result.seconds, peak_rss=result.peak_rss, peak_anonymous=result.peak_anonymous,
                made_in={"host": site.name, **result.made_in},
            )  # fmt: skip

    def _keep_log(self, folder: Path, name: str) -> None:
        log = folder / "log.txt"
        if log.exists():
            self.logs.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, self.logs / f"{file_name(name)}.txt")


def _name_of(pieces: Sequence[Piece]) -> str:
    """Return the name of a job of several pieces: its passes, or how much there is to measure."""
    passes = [one.name for one in pieces if one.kind == "pass"]
    return " + ".join(passes) if passes else f"{pieces[0].name} and {len(pieces) - 1} more"


def file_name(label: str) -> str:
    """Return a label as the name of a file."""
    return "".join(letter if letter.isalnum() else "-" for letter in label)
