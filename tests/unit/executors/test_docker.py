"""The command lines for a container engine; no engine is here to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from picual.errors import BadValue, DeviceUnavailable, EnvironmentFault
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


SILENT = """#!/bin/bash
echo 'Cannot connect to the Docker daemon at unix:///run/d.sock. Is the docker daemon running?' >&2
[ "$1" = run ] && exit 125
exit 1
"""
NO_IMAGE = """#!/bin/bash
[ "$1" = version ] && exit 0
echo 'docker: Error response from daemon: pull access denied for my/image' >&2
echo >&2
echo "Run 'docker run --help' for more information" >&2
exit 125
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a stand-in `docker` and make it the one that is found."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(docker, "ENGINES", ("docker",))

    def write(script: str) -> Path:
        file = tmp_path / "bin" / "docker"
        file.write_text(script)
        file.chmod(0o755)
        return file

    return write


def test_an_engine_whose_daemon_is_not_there_is_told_at_plan(
    tmp_path: Path, engine: Callable[[str], Path]
) -> None:
    file = engine(SILENT)

    (found,) = Docker(image="i").obstacles(tmp_path)

    assert found.exit_code == 3
    assert "does not answer: Cannot connect to the Docker daemon" in found.what
    assert found.where == str(file)
    assert "--host local" in found.hint
    with pytest.raises(DeviceUnavailable, match="does not answer"):
        Docker(image="i").executor(Surroundings(state=tmp_path))


def test_a_container_that_never_began_is_the_engines_fault(tmp_path: Path, engine: Callable[[str], Path]) -> None:
    engine(NO_IMAGE)
    job(label="lora").write(tmp_path / "a job")
    runner = Docker(image="my/image").executor(Surroundings(state=tmp_path / "state"))

    with pytest.raises(EnvironmentFault, match="pull access denied for my/image") as caught:
        runner.run(tmp_path / "a job", lambda _event: None)

    assert caught.value.exit_code == 3
    assert caught.value.hint == f"tail -n 40 '{tmp_path}/a job/log.txt'"


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
