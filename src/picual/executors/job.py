"""A job: one JSON document and one folder, the same wherever it runs.

JOB_DIR/job.json       what to do
JOB_DIR/out/           what it made
JOB_DIR/scratch/       checkpoints; kept when the worker dies, removed when the job ends well
JOB_DIR/events.jsonl   one JSON object a line: progress, metrics, log
JOB_DIR/result.json    how it ended: written last, atomically
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from picual import _atomic

# Kind of job -> the function that does it: (job, folder, report) -> result. Strings, so that a floor above
# can add its work (verification) without being imported from here.
TASKS: dict[str, str] = {
    "prepare": "picual.passes.task:prepare",
    "pass": "picual.passes.task:run",
    "evaluate": "picual.metrics.task:run",
    "verify": "picual.engine.verification.task:run",
    "fetch": "picual.sources.task:run",
    "chain": "picual.executors.chain:run",
}

Kind = Literal["prepare", "pass", "evaluate", "verify", "fetch", "chain"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One unit of work on the wire."""

    kind: Kind
    label: str  # as events and errors name it: the step's or metric's name
    payload: Mapping[str, Any] = field(default_factory=dict)  # what the task's own module defines
    seed: int = 0
    threads: int = 1
    memory_limit: int | None = None  # anonymous bytes after which the driver stops the worker
    offline: bool = False
    trust: bool = False
    device: str = ""  # kind of machine that the key is of; empty: any
    libraries: Mapping[str, str] = field(default_factory=dict)  # versions that the key is of; empty: any
    memory: int = 0  # bytes the step is expected to take; 0: not known
    alone: bool = False  # whether it is a timing, which nothing may run beside
    reads: tuple[str, ...] = ()  # absolute paths of the folders and files that the payload speaks of
    log_level: str = "info"  # what libraries must think important enough to reach log.txt

    def write(self, folder: Path) -> None:
        """Put ``job.json`` into a job folder."""
        (folder / "result.json").unlink(missing_ok=True)
        _atomic.write_json(folder / "job.json", {"version": 1, **vars(self)}, durable=False, indent=None)

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read ``job.json``."""
        wire = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        wire.pop("version")
        return cls(**{**wire, "reads": tuple(wire.get("reads", ()))})


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job ended. Memory is of the whole process tree, sampled from outside."""

    value: Mapping[str, Any] = field(default_factory=dict)  # what the task returned
    error: Mapping[str, Any] | None = None  # ``PicualError.to_wire`` of what stopped it
    seconds: float = 0.0
    peak_rss: int = 0
    peak_anonymous: int = 0
    made_in: Mapping[str, Any] = field(default_factory=dict)  # versions, processor and cores of its worker

    def write(self, folder: Path) -> None:
        """Put ``result.json`` into a job folder."""
        _atomic.write_json(folder / "result.json", vars(self), durable=False, indent=None)

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read ``result.json``."""
        return cls(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
