"""The worker: ``python -m picual.executors.worker JOB_DIR`` runs one job; ``--serve`` runs many, warm.

A served worker reads a job folder a line from stdin and answers ``done`` a line on its stdout. Whatever
libraries print goes to ``log.txt`` in the job's folder, never into the channel. The worker ends when its
driver does: it holds the job's lock until then, so that no second worker writes the same checkpoints.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import logging
import os
import platform
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import filelock

from picual import __version__, _lazy, hardware
from picual.errors import NotEnough, PicualError, StepFailed
from picual.executors.job import TASKS, Job, Result

# Whose versions are recorded with every result.
LIBRARIES = (
    "torch", "transformers", "peft", "bitsandbytes", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
    "onnxruntime-genai-cuda", "mobius-onnx", "safetensors", "tokenizers", "numpy",
)  # fmt: skip
PARENT_POLL = 0.2  # seconds between two looks at whether the driver is still there


def run_job(folder: Path) -> Result:
    """Run the job in ``folder`` in this process, write ``result.json`` and return it."""
    job = Job.read(folder)
    for name in ("out", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    started = time.monotonic()
    with (
        filelock.FileLock(folder / "worker.lock"),
        (folder / "events.jsonl").open("a", encoding="utf-8") as events,
    ):
        logging.basicConfig(level=job.log_level.upper(), force=True)
        try:
            value = _task(job)(
                job.payload,
                folder=folder,
                seed=job.seed,
                threads=job.threads,
                on_event=lambda name, values: _append(events, job.label, name, values),
            )
            result = Result(value=value, seconds=time.monotonic() - started)
        except PicualError as error:
            traceback.print_exc()
            result = Result(error=error.to_wire(), seconds=time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  # a pass may be anybody's: whatever it raises ends the step only
            traceback.print_exc()
            result = Result(error=_unexpected(error, job, folder).to_wire(), seconds=time.monotonic() - started)
        result = replace(result, made_in=made_in())
        result.write(folder)
    return result


def _task(job: Job) -> Callable[..., dict[str, Any]]:
    module, _, function = TASKS[job.kind].partition(":")
    loaded: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return loaded


def made_in() -> dict[str, Any]:
    """Return what this process runs in: what may differ from the driver's."""
    here = hardware.machine()
    versions = {name: version for name in LIBRARIES if (version := _lazy.version_of(name))}
    return {
        "python": platform.python_version(), "picual": __version__, "device": here.device_class,
        "cores": here.cores, "libraries": versions,
    }  # fmt: skip


def _append(events: TextIO, label: str, name: str, values: Mapping[str, Any]) -> None:
    line = {"time": round(time.time(), 3), "step": label, "event": name, **values}
    events.write(json.dumps(line, ensure_ascii=False) + "\n")
    events.flush()


def _unexpected(error: Exception, job: Job, folder: Path) -> PicualError:
    log = folder / "log.txt"
    if isinstance(error, MemoryError):
        return NotEnough(
            f"`{job.label}` ran out of memory", hint="use a machine with more memory, or a smaller model"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotEnough(f"`{job.label}` ran out of disk", where=str(error.filename or folder), hint="df -h")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return NotEnough(
            f"`{job.label}` may not write a file as large as it needs",
            where=str(error.filename or folder),
            hint="ulimit -f unlimited",
        )
    last = str(error).strip().splitlines()
    return StepFailed(
        f"`{job.label}` failed: {type(error).__name__}: {last[0] if last else 'no message'}",
        where=str(log),
        hint=f"tail -n 40 {shlex.quote(str(log))}",
    )


def serve() -> None:
    """Answer job folders from stdin until it closes."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not speak into the channel
    _prefer_to_die()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            run_job(folder)
        _give_back_memory()
        channel.write("done\n")
        channel.flush()


def _prefer_to_die() -> None:
    """Ask the kernel to take the worker, not the driver, when memory runs out."""
    adjustment = Path("/proc/self/oom_score_adj")
    if adjustment.exists():
        adjustment.write_text("500")


def end_with_parent(parent: int) -> None:
    """End this process, at once, when its parent has."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL)
    os._exit(1)


def _give_back_memory() -> None:
    """Return freed pages to the system, so that the next job's peak is its own."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def main() -> int:
    """Run one job folder, or serve many."""
    if sys.argv[1:] == ["--serve"]:
        serve()
        return 0
    return 0 if run_job(Path(sys.argv[1]).absolute()).error is None else 4


if __name__ == "__main__":
    sys.exit(main())
