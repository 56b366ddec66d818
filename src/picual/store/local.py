"""A store on this machine: content-addressed folders that appear whole or not at all.

    ROOT/entries/v1/ab/abcdef.../manifest.json, content/
    ROOT/work/abcdef.../         job folders of steps under way or interrupted
    ROOT/locks/                  one lock file a key
    ROOT/aside/                  entries that did not match their digest, or whose model failed verification

It knows digests and folders, nothing of passes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from picual import _atomic, fingerprint
from picual.errors import Busy, Corrupt, StoreError
from picual.store.manifest import Manifest, differences, digest_of, seal_files

LAYOUT = "v1"
KEPT = {"manifest.json", "content"}  # of a job's folder, in the entry that it becomes
HALF_KEPT = 86_400  # seconds that what a killed run had not published stays


@dataclass(frozen=True)
class Entry:
    """One finished piece of work."""

    folder: Path
    manifest: Manifest

    @property
    def content(self) -> Path:
        """Where its files lie. Read-only: hard links to them may be anywhere."""
        return self.folder / "content"


class Store:
    """Finished work by key."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self._entries = self.root / "entries" / LAYOUT
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the store cannot be made ({error.strerror})",
                where=str(self.root),
                hint="give another: `--store DIR`",
            ) from error

    def find(self, key: str) -> Entry | None:
        """Return the entry when it is there and its files have the right sizes: a stat each, no hashing."""
        if not os.path.isdir(f"{self._entries}/{key[:2]}/{key}"):  # noqa: PTH112  # asked twenty times a trial
            return None
        folder = self._folder(key)
        try:
            manifest = Manifest.read(folder)
        except (OSError, ValueError, TypeError):
            self.set_aside(key)
            return None
        entry = Entry(folder, manifest)
        if not _sizes_match(entry):
            self.set_aside(key)
            return None
        return entry

    def files_at(self, path: Path) -> Mapping[str, Mapping[str, Any]] | None:
        """Return size and digest of every file below ``path`` by relative name, if it is part of an entry."""
        root = self._entries
        if (
            not path.is_relative_to(root)
            or len(parts := path.relative_to(root).parts) < 3
            or parts[2] != "content"
        ):
            return None
        entry = self.find(parts[1])
        if entry is None:
            return None
        inside = path.relative_to(entry.content).as_posix()
        files = entry.manifest.files
        if inside in files:
            return {path.name: files[inside]}
        start = "" if inside == "." else f"{inside}/"
        return {name.removeprefix(start): facts for name, facts in files.items() if name.startswith(start)}

    def verify(self, entry: Entry) -> None:
        """Hash the entry's files.

        Raises:
            Corrupt: One does not match; the entry is set aside, and the next run makes it again.
        """
        for name, facts in entry.manifest.files.items():
            path = entry.content / name
            if not path.is_file() or fingerprint.file_digest(path) != facts["sha256"]:
                aside = self.set_aside(entry.manifest.key)
                raise Corrupt(
                    f"store entry {entry.manifest.key[:12]} ({entry.manifest.label}) is damaged: `{name}`"
                    " does not match its digest; it was set aside",
                    where=str(aside),
                    hint="run the same command again: the step is repeated",
                )

    def publish(
        self, content: Path, *, ingredients: Mapping[str, Any], label: str, value: Mapping[str, Any],
        seconds: float = 0.0, peak_rss: int = 0, peak_anonymous: int = 0, made_in: Mapping[str, Any] | None = None,
    ) -> Entry:  # fmt: skip
        """Move ``content`` (a folder on the store's file system) in as the entry of these ingredients.

        Where it is that of the key's own job folder, this one becomes the entry: to make another and to remove
        this one would cost more than anything else here. Until the entry is there, checkpoints are.
        """
        key = fingerprint.digest(ingredients)
        files = seal_files(content)
        manifest = Manifest(
            key=key, label=label, ingredients=ingredients, digest=digest_of(files), files=files, value=value,
            seconds=seconds, peak_rss=peak_rss, peak_anonymous=peak_anonymous, made_in=made_in or {},
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        folder, work = self._folder(key), self._work(key)
        if content.parent != work:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{key[:12]}."))
            work.chmod(0o755)
        _atomic.remove(work / "content")  # of a run that was killed right here
        content.rename(work / "content")
        manifest.write(work)
        # The name itself is not synced: a power cut may undo it, whole, for what is then made once more.
        _atomic.rename(work, folder)
        for name in {*os.listdir(folder)} - KEPT:  # noqa: PTH208  # names are enough
            _atomic.remove(folder / name)
        return Entry(folder, manifest)

    def work(self, key: str) -> Path:
        """Return the job folder of a key; what an interrupted run left there is kept."""
        folder = self._work(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_work(self, key: str) -> None:
        """Remove the job folder of a key, checkpoints and all."""
        _atomic.remove(self._work(key))

    @contextlib.contextmanager
    def lock(self, key: str, *, what: str, wait: float = 0) -> Iterator[None]:
        """Hold the key, or say who does.

        Args:
            key: What is held.
            what: What this process is about to do, for the message others get.
            wait: Seconds to wait for another that holds it.

        Raises:
            Busy: Another process holds it; the message names its pid, command and age.
        """
        path = self.root / "locks" / f"{key[:32]}.lock"
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=wait)
        except filelock.Timeout as error:
            raise Busy(
                f"{what} is held by {_holder(path)}",
                where=str(self.root),
                hint="wait for it, or use another store: `--store DIR`",
            ) from error
        facts = {"pid": os.getpid(), "command": " ".join(["picual", *sys.argv[1:]]), "since": time.time()}
        path.write_text(json.dumps(facts), encoding="utf-8")
        try:
            yield
        finally:
            if self._folder(key).exists():  # nobody will need it again
                with contextlib.suppress(OSError):  # Windows keeps what is open
                    path.unlink()
            lock.release()

    def set_aside(self, key: str) -> Path:
        """Move an entry out of the way and return where it went."""
        aside = self.root / "aside"
        aside.mkdir(exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=aside, prefix=f"{key[:12]}-"))
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self._folder(key).rename(place / "entry")
        return place

    def entries(self) -> list[Entry]:
        """Return every readable entry, oldest first."""
        found = []
        for folder in self._entries.glob("??/[0-9a-f]*"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Entry(folder, Manifest.read(folder)))
        return sorted(found, key=lambda entry: (entry.manifest.created, entry.manifest.key))

    def why_not(self, ingredients: Mapping[str, Any], label: str) -> str:
        """Say what makes these ingredients new, compared with the most similar entry of the same kind."""
        if self.find(fingerprint.digest(ingredients)):
            return ""
        others = [entry for entry in self.entries() if entry.manifest.label == label]
        changes = [differences(entry.manifest.ingredients, ingredients) for entry in others]
        changes = [change for change in changes if change]
        if not changes:
            return "first time"
        nearest = min(changes, key=len)
        rest = f", and {len(nearest) - 3} more" if len(nearest) > 3 else ""
        return "; ".join(nearest[:3]) + rest

    def prune(
        self, *, max_bytes: int | None = None, older_than_days: float | None = None
    ) -> list[tuple[str, int]]:
        """Remove entries, oldest first, until the limits hold; also all of ``aside``. Return what went.

        What a killed run had not published goes too, a day later.
        """
        _atomic.remove(self.root / "aside")
        for half in self._entries.glob("*/.*"):
            if time.time() - half.stat().st_mtime > HALF_KEPT:
                _atomic.remove(half)
        entries = self.entries()
        total = sum(size_of(entry) for entry in entries)
        now = dt.datetime.now(dt.UTC)
        gone = []
        for entry in entries:
            age = now - dt.datetime.fromisoformat(entry.manifest.created)
            old = older_than_days is not None and age.total_seconds() > older_than_days * 86400
            heavy = max_bytes is not None and total > max_bytes
            if not (old or heavy):
                continue
            with self.lock(entry.manifest.key, what=f"entry {entry.manifest.key[:12]}"):
                _atomic.remove(entry.folder)
            total -= size_of(entry)
            gone.append((entry.manifest.key, size_of(entry)))
        return gone

    def _folder(self, key: str) -> Path:
        return self._entries.joinpath(key[:2], key)

    def _work(self, key: str) -> Path:
        return self.root / "work" / key[:32]


def default_root() -> Path:
    """Return ``$PICUAL_STORE``, or the user's cache folder."""
    named = os.environ.get("PICUAL_STORE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("picual", appauthor=False)) / "store"


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry's content."""
    return sum(int(facts["size"]) for facts in entry.manifest.files.values())


def hand_out(content: Path, folder: Path, *, small: int = 1 << 20) -> None:
    """Put an entry's files into ``folder`` without copying the big ones.

    Files over ``small`` bytes become hard links; small ones, and all of them on another file system, are copied.
    So are the data of ONNX files: readers such as ``onnx`` refuse data that have several names.
    """
    for source in fingerprint.files_under(content):
        place = folder / source.relative_to(content)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_size > small and source.suffix != ".data" and _linked(source, place):
            continue
        shutil.copyfile(source, place)


def _linked(source: Path, place: Path) -> bool:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        return False
    return True


def _sizes_match(entry: Entry) -> bool:
    for name, facts in entry.manifest.files.items():
        try:
            if (entry.content / name).stat().st_size != facts["size"]:
                return False
        except OSError:
            return False
    return True


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        minutes = (time.time() - float(facts["since"])) / 60
        return f"pid {facts['pid']} (`{facts['command']}`, {minutes:.0f} min)"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
