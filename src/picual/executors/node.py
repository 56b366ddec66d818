"""A node's side of a job: ``python -m picual.executors.node SHARE [NAME] --cache DIR``.

It gets what the job reads, runs it in a watched worker, keeps its checkpoints and events in the share meanwhile,
and puts what it made there. Where a checkpoint of the same job is in the share, it goes on from that: the node
that wrote it may be gone. It ends when whoever started it does.

Without a name it serves: it reads a name a line and answers each with an exit code a line, its worker kept warm.

Exit code: 0, or that of the branch of ``errors.py`` which the job's error belongs to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import platformdirs

from picual import _atomic, _lazy, fingerprint, hardware
from picual.errors import EnvironmentFault, Interrupted, PicualError, from_wire
from picual.executors import hub_token
from picual.executors.checkpoints import Checkpoints
from picual.executors.events import is_event
from picual.executors.job import Job, Result
from picual.executors.parcel import unpack
from picual.executors.process import ProcessExecutor
from picual.executors.share import FolderShare
from picual.executors.worker import end_with_parent

MIRROR_SECONDS = 0.2  # a checkpoint is in the share so soon after it is whole
MIRROR_SHARE = 0.1  # of a node's time at most: a large checkpoint is copied less often
MEMORY_RESERVE = 0.05  # share of the node's memory that is left to its system


def run(share: FolderShare, name: str, cache: Path, executor: ProcessExecutor) -> Result:
    """Do one job of the share; its result is there when this returns."""
    try:
        folder = unpack(share, name, cache)
        _fit(folder)
        result = _watched(share, name, folder, executor)
    except (PicualError, OSError) as error:
        told = error if isinstance(error, PicualError) else _unwritable(error)
        result = Result(error=told.to_wire())
        folder = None
    files = {} if folder is None or result.error is not None else _given_back(share, folder, cache)
    _end(share, name, result, files)
    if folder is not None and result.error is None:
        _atomic.remove(folder)
        share.remove(f"jobs/{name}/scratch")
    return result


def _unwritable(error: OSError) -> EnvironmentFault:
    what = f"this node cannot write or read a file ({error.strerror})"
    return EnvironmentFault(what, where=str(error.filename or ""), hint="`df -h` there says what has room")


def _end(share: FolderShare, name: str, result: Result, files: dict[str, dict[str, Any]]) -> None:
    share.write(f"jobs/{name}/result.json", json.dumps({"files": files, "result": asdict(result)}, indent=1))


def _fit(folder: Path) -> None:
    """Fill in what the driver left to the node: cores and memory; refuse a node of another kind.

    Raises:
        EnvironmentFault: Its processor or its libraries are others than the key of the work says.
    """
    job, here = Job.read(folder), hardware.machine()
    if job.device and job.device != here.device_class:
        raise EnvironmentFault(
            f"this node is of another kind than the plan says: {here.device_class}, not {job.device}",
            hint=f"if all nodes are, say so under the host: `device: {here.device_class}`",
        )
    for library, version in job.libraries.items():
        if version != (found := _lazy.version_of(library)):
            raise EnvironmentFault(
                f"this node has {library} {found or '(not installed)'} and the driver {version or 'none'}",
                hint=f"on the node: pip install {library}=={version}" if version else f"pip uninstall {library}",
            )
    limit = int(here.memory_free - MEMORY_RESERVE * here.memory)
    replace(job, threads=job.threads or here.cores, memory_limit=limit).write(folder)


def _watched(share: FolderShare, name: str, folder: Path, executor: ProcessExecutor) -> Result:
    """Run the job in a worker process, with its checkpoints and events kept in the share."""
    checkpoints = Checkpoints(share.root / "jobs" / name / "scratch", folder / "scratch")
    checkpoints.restore()
    before = share.read(f"jobs/{name}/events.jsonl")
    if before is not None:  # of a node that is gone: a step's curves are read off its events
        whole = "".join(line for line in before.splitlines(keepends=True) if is_event(line))
        (folder / "events.jsonl").write_text(whole, encoding="utf-8")
    with _mirrored(checkpoints), _events(share, name) as events:
        try:
            return executor.run(folder, events)
        except Interrupted:
            raise
        except PicualError as error:  # the worker was lost, or held too much: that is the job's result
            return Result(error=error.to_wire())
        finally:
            log = folder / "log.txt"
            if log.exists():
                share.write(f"jobs/{name}/log.txt", log.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def _mirrored(checkpoints: Checkpoints) -> Iterator[None]:
    """Keep checkpoints in the share while a job runs."""
    done = threading.Event()

    def mirror() -> None:
        took = 0.0
        while not done.wait(max(MIRROR_SECONDS, took / MIRROR_SHARE)):
            began = time.monotonic()
            checkpoints.keep()
            took = time.monotonic() - began

    thread = threading.Thread(target=mirror, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _events(share: FolderShare, name: str) -> Iterator[Any]:
    place = share.root / "jobs" / name / "events.jsonl"
    with place.open("a", encoding="utf-8") as stream:
        if place.stat().st_size and not place.read_bytes().endswith(b"\n"):
            stream.write("\n")  # after half a line of a node that is gone

        def append(event: Mapping[str, Any]) -> None:
            stream.write(json.dumps(event, ensure_ascii=False) + "\n")
            stream.flush()

        yield append


def _given_back(share: FolderShare, folder: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """Put what a job made into the share and into this node's own blobs; return size and digest by name."""
    out, own = folder / "out", FolderShare(cache)
    files = {}
    for file in fingerprint.files_under(out):
        digest = fingerprint.file_digest(file)
        file.chmod(0o444)
        for place in (share, own):
            if place.lacking([digest]):
                place.put(file, digest)
        files[file.relative_to(out).as_posix()] = {"size": file.stat().st_size, "sha256": digest}
    return files


def default_cache() -> Path:
    """Return ``$PICUAL_NODE_CACHE``, or the user's cache folder on this node."""
    named = os.environ.get("PICUAL_NODE_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("picual", appauthor=False)) / "node"


def main() -> int:
    """Run one job of a share, or serve."""
    try:
        return _main()
    except PicualError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _main() -> int:
    asked = argparse.ArgumentParser(description="Run jobs of a share.")
    asked.add_argument("share", type=Path)
    asked.add_argument("name", nargs="?")
    asked.add_argument("--cache", type=Path, default=None)
    given = asked.parse_args()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    share = FolderShare(given.share.absolute())
    cache = (given.cache or default_cache()).absolute()
    with contextlib.closing(_executor(share, given.name)) as executor:
        if given.name is not None:
            return exit_code(run(share, given.name, cache, executor))
        for line in sys.stdin:
            sys.stdout.write(f"{exit_code(run(share, line.strip(), cache, executor))}\n")
            sys.stdout.flush()
    return 0


def _executor(share: FolderShare, name: str | None) -> ProcessExecutor:
    """Return what runs the jobs; a hub token that cannot be had is the result of the job that was to get it."""
    try:
        return ProcessExecutor(variables=hub_token.from_vault())
    except PicualError as error:
        if name is not None:
            _end(share, name, Result(error=error.to_wire()), {})
        raise


def exit_code(result: Result) -> int:
    """Return 0, or the exit code of what stopped a job."""
    return 0 if result.error is None else from_wire(result.error).exit_code


if __name__ == "__main__":
    sys.exit(main())
