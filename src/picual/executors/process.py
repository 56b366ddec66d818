"""The default executor: one warm worker process, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from picual.errors import Interrupted, JobLost, NotEnough
from picual.executors.base import OnEvent
from picual.executors.events import Tail
from picual.executors.job import Job, Result
from picual.executors.memory import tree_memory

SAMPLE_SECONDS = 0.1
GRACE_SECONDS = 5.0


@dataclass
class _Watch:
    """What is seen of one job from outside."""

    rss: int = 0
    anonymous: int = 0

    def sample(self, pid: int) -> None:
        resident, anonymous = tree_memory(pid)
        self.rss, self.anonymous = max(self.rss, resident), max(self.anonymous, anonymous)


class ProcessExecutor:
    """Keeps one worker per set of environment variables, so that imports are paid once.

    Args:
        python: The interpreter; left out, the one that is running.
        variables: Set for the worker beside what every worker gets.
    """

    def __init__(self, python: Path | None = None, variables: Mapping[str, str] | None = None) -> None:
        self._python = str(python or sys.executable)
        self._variables = dict(variables or {})
        self._worker: subprocess.Popen[str] | None = None
        self._environment: dict[str, str] = {}
        self._answers: queue.Queue[str] = queue.Queue()

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Run the job in the warm worker; start one if there is none for this environment."""
        job = Job.read(folder)
        worker = self._warm_worker(job)
        events = folder / "events.jsonl"
        watch, tail = _Watch(), Tail(events, events.stat().st_size if events.exists() else 0)
        assert worker.stdin is not None
        try:
            worker.stdin.write(f"{folder}\n")
            worker.stdin.flush()
            self._wait(worker, job, folder, watch, lambda: tail.hand_over(on_event))
        except KeyboardInterrupt:
            self._stop(worker)
            raise Interrupted(f"interrupted in `{job.label}`", hint="the same command continues it") from None
        except BrokenPipeError:
            self._lost(worker, job, folder, watch)
        tail.hand_over(on_event)
        result = replace(Result.read(folder), peak_rss=watch.rss, peak_anonymous=watch.anonymous)
        result.write(folder)
        if result.error is not None:
            self._stop(worker)  # what a failure left in memory is nobody's friend
        return result

    def close(self) -> None:
        """Stop the worker."""
        if self._worker is not None:
            self._stop(self._worker)

    def _wait(
        self, worker: subprocess.Popen[str], job: Job, folder: Path, watch: _Watch, hand_over: Callable[[], None]
    ) -> None:
        while True:
            watch.sample(worker.pid)
            hand_over()
            if job.memory_limit is not None and watch.anonymous > job.memory_limit:
                self._stop(worker, at_once=True)
                raise NotEnough(
                    f"`{job.label}` was stopped: it held {_gb(watch.anonymous)} of memory and"
                    f" {_gb(job.memory_limit)} are allowed here",
                    where=str(folder / "log.txt"),
                    hint="use a machine with more memory, a shorter `max_length` or a smaller batch",
                )
            with contextlib.suppress(queue.Empty):
                self._answers.get(timeout=SAMPLE_SECONDS)
                return
            if worker.poll() is not None:
                self._lost(worker, job, folder, watch)

    def _lost(self, worker: subprocess.Popen[str], job: Job, folder: Path, watch: _Watch) -> None:
        code = worker.wait()
        self._stop(worker)
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        peak = f"it held {_gb(watch.anonymous)} at its peak{_last_progress(folder)}"
        raise JobLost(
            f"the worker of `{job.label}` {how}; {peak}",
            where=str(folder / "log.txt"),
            hint="run the same command again: it continues from the last checkpoint",
        )

    def _warm_worker(self, job: Job) -> subprocess.Popen[str]:
        environment = worker_environment(job) | self._variables
        if self._worker is not None and self._worker.poll() is None and self._environment == environment:
            return self._worker
        self.close()
        self._worker = subprocess.Popen(
            [self._python, "-m", "picual.executors.worker", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
            start_new_session=True,  # Ctrl-C reaches the driver, which stops the worker in order
        )
        self._environment = environment
        self._answers = queue.Queue()
        assert self._worker.stdout is not None
        threading.Thread(target=_forward, args=(self._worker.stdout, self._answers), daemon=True).start()
        return self._worker

    def _stop(self, worker: subprocess.Popen[str], *, at_once: bool = False) -> None:
        self._worker = None
        if worker.poll() is None:
            worker.kill() if at_once else worker.terminate()
            try:
                worker.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def worker_environment(job: Job) -> dict[str, str]:
    """Return what a job's worker needs in its environment: pinned threads, no telemetry, offline if asked."""
    threads = str(job.threads)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # GNU's OpenMP spins at its barriers: with one other busy process on two cores training fell from 340 to 56
        # tokens/s, and with this to 163; alone it makes no difference.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if job.offline:
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return variables


def _forward(stream: IO[str], answers: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError):  # closed while reading: the worker was stopped
        for line in stream:
            answers.put(line)


def _last_progress(folder: Path) -> str:
    events = folder / "events.jsonl"
    if not events.exists():
        return ""
    for line in reversed(events.read_text(encoding="utf-8", errors="replace").splitlines()):
        with contextlib.suppress(ValueError):
            event: Mapping[str, object] = json.loads(line)
            if event.get("event") == "progress":
                return f", at {event['done']} of {event['total']} {event['note']}".rstrip()
    return ""


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
