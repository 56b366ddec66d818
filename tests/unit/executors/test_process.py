"""The default executor with its real worker process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from picual.errors import JobLost, NotEnough
from picual.executors.job import Job
from picual.executors.process import ProcessExecutor, worker_environment
from picual.models import HfModel
from picual.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    with contextlib.closing(ProcessExecutor()) as made:
        yield made


def job(folder: Path, model: HfModel, metric: str = "size", **changes: int) -> Path:
    payload = {"metric": metric, "fields": {}, "model": model.to_wire(), "target": {}, "data": {}}
    Job(kind="evaluate", label=metric, payload=payload, **changes).write(folder)  # type: ignore[arg-type]
    return folder


def worker_of(this: psutil.Process) -> psutil.Process:
    while not (children := [one for one in this.children() if "worker" in " ".join(one.cmdline())]):
        time.sleep(0.01)
    return children[0]


def test_one_warm_worker_does_job_after_job(tmp_path: Path, model: HfModel, executor: ProcessExecutor) -> None:
    pids = []
    for name in ("a", "b"):
        result = executor.run(job(tmp_path / name, model), lambda _event: None)
        assert result.value["values"]["size_mb"] > 0
        pids.append(worker_of(psutil.Process()).pid)

    assert pids[0] == pids[1]


def test_a_killed_worker_is_a_lost_job_and_the_next_job_gets_a_new_one(
    tmp_path: Path, model: HfModel, executor: ProcessExecutor
) -> None:
    killer = threading.Thread(target=lambda: worker_of(psutil.Process()).kill())
    killer.start()
    with pytest.raises(JobLost) as caught:
        executor.run(job(tmp_path / "a", model, "latency"), lambda _event: None)
    killer.join()

    assert caught.value.exit_code == 4
    assert executor.run(job(tmp_path / "b", model), lambda _event: None).error is None


def test_a_job_over_its_memory_is_stopped_and_says_so(
    tmp_path: Path, model: HfModel, executor: ProcessExecutor
) -> None:
    with pytest.raises(NotEnough) as caught:
        executor.run(job(tmp_path / "a", model, "latency", memory_limit=1 << 20), lambda _event: None)

    assert caught.value.exit_code == 3


def test_threads_are_pinned_and_a_users_own_spin_count_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    ours = worker_environment(Job(kind="evaluate", label="size", threads=3, offline=True))
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    theirs = worker_environment(Job(kind="evaluate", label="size"))

    assert (ours["OMP_NUM_THREADS"], ours["GOMP_SPINCOUNT"], ours["HF_HUB_OFFLINE"]) == ("3", "1000", "1")
    assert theirs["GOMP_SPINCOUNT"] == "7"
    assert "HF_HUB_OFFLINE" not in theirs
