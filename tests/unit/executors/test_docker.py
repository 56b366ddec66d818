"""The command lines for a container engine; no engine is here to run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from picual.errors import BadValue, DeviceUnavailable
from picual.executors import docker
from picual.executors.docker import Docker
from picual.executors.host import Surroundings
from picual.executors.job import Job
from picual.space import Settings


def job(**changes: object) -> Job:
    values = {"kind": "pass", "label": "lora", "threads": 3, "reads": ("/data/model", "/data/rows.jsonl")}
    return Job(**(values | changes))  # type: ignore[arg-type]


def test_every_path_is_the_same_inside_and_what_is_read_cannot_be_written() -> None:
    command = Docker(image="my/picual:1").run_command(job(), Path("/store/work/abc"), Path("/store/code"), "one")

    volumes = [command[n + 1] for n, part in enumerate(command) if part == "--volume"]
    assert volumes == [
        "/store/work/abc:/store/work/abc", "/store/code:/store/code:ro", "/data/model:/data/model:ro",
        "/data/rows.jsonl:/data/rows.jsonl:ro",
    ]  # fmt: skip
    assert command[-5:] == ["my/picual:1", "python", "-m", "picual.executors.worker", "/store/work/abc"]
    assert "OMP_NUM_THREADS=3" in command
    assert "--network" not in command


def test_limits_devices_and_options_reach_the_engine() -> None:
    host = Docker(image="i", gpus="all", run=Settings({"shm-size": "8g"}))

    command = host.run_command(job(offline=True, memory_limit=5_000), Path("/w"), Path("/c"), "one")

    text = " ".join(command)
    assert "--gpus all" in text
    assert "--memory 5000" in text
    assert "--network none" in text
    assert "--shm-size 8g" in text


def test_an_image_is_built_from_its_folder() -> None:
    host = Docker(dockerfile="Dockerfile", context="/images/picual", build_args=Settings({"A": "1"}))

    assert host.build_command() == [
        "build", "-t", "picual-worker", "-f", "/images/picual/Dockerfile", "--build-arg", "A=1", "/images/picual",
    ]  # fmt: skip


def test_a_container_without_an_image_or_an_engine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "ENGINES", ("no-such-engine",))

    with pytest.raises(BadValue, match="`image` or `dockerfile`"):
        Docker()
    with pytest.raises(BadValue, match="`context"):
        Docker(dockerfile="Dockerfile")
    with pytest.raises(DeviceUnavailable, match="no container engine"):
        Docker(image="i").executor(Surroundings(state=tmp_path))
    assert "no container engine" in str(Docker(image="i").obstacles(tmp_path)[0])


def test_an_engine_that_runs_the_worker_gives_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in engine that runs what follows the image's name on this machine: the road around it is real."""
    from picual.testing.tiny import tiny_model

    model = tiny_model(tmp_path / "tiny")
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/bash\nwhile [ "$1" != IMAGE ]; do shift; done\nshift\nexec "$@"\n')
    engine.chmod(0o755)
    monkeypatch.setattr(docker, "_engine", lambda: str(engine))
    payload = {"metric": "size", "fields": {}, "model": model.to_wire(), "target": {}, "data": {}}
    Job(kind="evaluate", label="size", payload=payload, reads=(str(model.path),)).write(tmp_path / "job")
    import sys

    runner = Docker(image="IMAGE", python=sys.executable).executor(Surroundings(state=tmp_path / "state"))

    result = runner.run(tmp_path / "job", lambda _event: None)

    assert result.value["values"]["size_mb"] > 0
