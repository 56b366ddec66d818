"""How far the driver of a search goes: thousands of trials on as many workers that answer at once.

    python benchmarks/scale.py [--trials 10000] [--workers 1000] [--sampler random]

Everything is the product's own (plan, search, loop, study, store, events) but the executor, which answers each
job with a small result at once. So what is measured is what a trial costs the driver: processor time, memory, and
what it does to the store. The time that the workers would take is told beside it, from step times recorded on the
demo (2 cores, 2026-11-24), as the trials of a batch run side by side.

Optuna's own share is the time inside its calls for asking and telling.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import tempfile
import threading
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from picual import api
from picual.executors.base import OnEvent
from picual.executors.job import Job, Result
from picual.search.study import Study
from picual.store.local import Store
from picual.testing.tiny import tiny_model

SECONDS = {"lora": 62.0, "merge-adapter": 4.1, "build-genai": 9.7, "evaluate": 12.0, "verify": 21.0}
LIMITS = {"outside": 5.0, "with": 25.0, "growth": 1.5, "memory": 10.0}  # ms, ms, ratio, KB


class Answers:
    """An executor that answers at once. What it takes itself is not the driver's."""

    model = Path()
    spent = 0.0
    lock = threading.Lock()

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Write a small result for the job in a folder."""
        with Answers.lock:  # one at a time: a worker elsewhere does not fight the driver for its interpreter
            began = time.thread_time()
            job = Job.read(folder)
            result = Result(value=_value(job, folder / "out"), seconds=0.0)
            result.write(folder)
            Answers.spent += time.thread_time() - began
        on_event({"time": 0.0, "step": job.label, "event": "progress", "done": 1, "total": 1, "note": ""})
        return result

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Marks:
    """What was seen at the end of each trial, in little more than its bytes: it counts as the driver's memory."""

    seconds: array[float] = field(default_factory=lambda: array("d"))  # processor time of the driver
    resident: array[int] = field(default_factory=lambda: array("q"))  # bytes


def _value(job: Job, out: Path) -> dict[str, Any]:
    if job.kind == "evaluate":
        number = zlib.crc32(str(job.payload.get("model")).encode()) / 2**32  # another for each model
        return {"values": {"size_mb": 80 + 40 * number, "kl": number, "top1": 1 - number, "tokens": 512}}
    if job.kind == "verify":
        return {"checks": [{"name": "simulated", "passed": True, "measured": 0.0, "bound": 1.0, "detail": ""}]}
    out.mkdir(exist_ok=True)
    kind = {"lora": "hf-adapter", "merge-adapter": "hf"}.get(job.payload.get("pass", ""), "genai")
    (out / "genai_config.json").write_text("{}")
    if kind == "hf":  # what the next step's key is read off
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Answers.model / name, out / name)
    wire: dict[str, Any] = {"kind": kind, "path": "."}
    if kind == "hf-adapter":
        wire["base"] = {"kind": "in"}
    return {"model": wire, "journal": [], "metrics": {}, "curves": {}}


def timed(owner: Any, name: str, clock: Counter[str], key: str) -> None:
    """Count the processor time that calls of a method take, and how often it is called."""
    real: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(real)
    def call(*given: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return real(*given, **named)
        finally:
            clock[key] += int(1e9 * (time.thread_time() - began))
            clock[f"{key} calls"] += 1

    setattr(owner, name, call)


def main() -> None:
    """Run the study and print what a trial costs."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trials", type=int, default=10_000)
    asked.add_argument("--workers", type=int, default=1000)
    asked.add_argument("--sampler", default="random")
    given = asked.parse_args()
    clock: Counter[str] = Counter()
    timed(Study, "_asked", clock, "optuna")
    timed(Study, "tell", clock, "optuna")
    for name in ("find", "publish", "lock"):
        timed(Store, name, clock, name)
    marks = Marks()
    process = psutil.Process()

    def seen(event: dict[str, Any]) -> None:
        if event["event"] == "trial" and event["status"] == "done":
            marks.seconds.append(time.process_time() - Answers.spent)
            marks.resident.append(process.memory_info().rss)

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        api.run(recipe(root, given), executor=Answers, listeners=(seen,))  # type: ignore[arg-type]
        told(marks, clock, root, given)


def recipe(root: Path, given: Any) -> dict[str, Any]:
    """Return a search without end: two numbers and a choice."""
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(8)))
    Answers.model = tiny_model(root / "model").path
    rate = {"search": {"low": 1e-5, "high": 1e-2, "log": True}}
    return {
        "version": 1, "model": str(Answers.model), "output": str(root / "out"),
        "store": str(root / "store"), "threads": 1,
        "data": {"rows": {"files": str(rows), "text": "text", "max_length": 16}},
        "passes": {
            "lora": {
                "data": "rows", "alpha": {"search": {"low": 1, "high": 256}}, "training": {"learning_rate": rate},
            },
            "merge-adapter": {}, "build-genai": {"precision": "int4", "block": {"search": [16, 32, 64, 128]}},
        },
        "metrics": {"size": {}, "divergence": {}},
        "search": {"minimize": "divergence", "subject_to": {"size": "<= 110MB"}, "trials": given.trials,
                   "parallel": given.workers, "sampler": given.sampler},
    }  # fmt: skip


def told(marks: Marks, clock: Counter[str], root: Path, given: Any) -> None:
    """Print the figures beside their limits."""
    trials = len(marks.seconds)
    whole = 1e3 * (marks.seconds[-1] - marks.seconds[0]) / (trials - 1)
    optuna = clock["optuna"] / 1e6 / trials
    # Whole batches: a batch is asked for before it is told. What the first takes is not of trials alone.
    batch = given.workers * -(-trials // (50 * given.workers))
    early, late = _pace(marks.seconds, batch, 2 * batch), _pace(marks.seconds, trials - batch, trials)
    memory = (marks.resident[-1] - marks.resident[trials // 10]) / (trials - trials // 10) / 1e3
    files = sum(len(names) for _, _, names in os.walk(root / "store"))
    batches = -(-trials // given.workers)
    print(f"trials {trials}, workers {given.workers}, sampler {given.sampler}")
    print(f"driver, outside Optuna: {whole - optuna:.2f} ms a trial (limit {LIMITS['outside']:g})")
    print(f"driver, with Optuna: {whole:.2f} ms a trial (limit {LIMITS['with']:g})")
    growth = f"x{late / early:.2f} (limit {LIMITS['growth']:g}; {early:.2f}, {late:.2f} ms)"
    print(f"last {batch} trials to the second {batch}: {growth}")
    print(f"memory: {memory:.1f} KB a trial (limit {LIMITS['memory']:g})")
    calls = ", ".join(f"{name} {clock[f'{name} calls'] / trials:.1f}" for name in ("find", "publish", "lock"))
    print(f"store, calls a trial: {calls}; {files / trials:.1f} files a trial")
    journal = (root / "out" / "run" / "study.jsonl").stat().st_size
    print(f"journal: {journal / 1e3 / trials:.1f} KB a trial")
    minutes = batches * sum(SECONDS.values()) / 60
    print(f"workers would take {minutes:.0f} minutes, the driver {whole * trials / 6e4:.1f}")


def _pace(seconds: Sequence[float], first: int, last: int) -> float:
    first = max(first, 1)
    return 1e3 * (seconds[last - 1] - seconds[first - 1]) / max(last - first, 1)


if __name__ == "__main__":
    main()
