"""A real Ray cluster of two nodes with caches of their own: the same bytes as here, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from picual import api, fingerprint
from picual.errors import NotEnough
from picual.executors.ray.cluster import Node, connect, look_at_each
from picual.testing.ray_cluster import LocalRay
from picual.testing.tiny import tiny_model

STEPS, SAVED = 600, 20
EVERYTHING = bool(os.environ.get("PICUAL_EVERYTHING"))  # `make bench` sets it


@dataclass
class Machines:
    """The cluster, and the caches of its nodes by number."""

    cluster: LocalRay
    caches: dict[int, Path]

    def busy(self) -> int:
        """Return the node that a job is on."""
        while True:
            for number, cache in self.caches.items():
                if any(cache.glob("work/*/job.json")):
                    return number
            time.sleep(0.02)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = LocalRay(tmp_path_factory.mktemp("ray"))
    try:
        # Their default thread counts differ: what a job computes with is what it says.
        yield Machines(cluster, {2: cluster.add(2, OMP_NUM_THREADS="1"), 3: cluster.add(3, OMP_NUM_THREADS="2")})
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recipe")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"line {n} of the tiny data set"}) + "\n" for n in range(12)))
    return {
        "version": 1,
        "model": str(tiny_model(folder / "model").path),
        "data": {"rows": {"files": str(rows), "text": "text", "max_length": 64}},
        "passes": {
            "lora": {
                "data": "rows", "rank": 4, "dtype": "float32",
                "training": {"max_steps": STEPS, "save_steps": SAVED},
            },
            "merge-adapter": {},
            "build-genai": {"precision": "int4"},
        },
        "metrics": {"size": {}},
        "threads": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def here(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as this machine makes it."""
    folder = tmp_path_factory.mktemp("here")
    return api.run({**recipe, "output": str(folder / "out"), "store": str(folder / "store")}).model


def on_ray(recipe: Mapping[str, Any], machines: Machines, folder: Path, **changes: Any) -> dict[str, Any]:
    hosts = {"cluster": {"type": "ray", "address": machines.cluster.address}}
    places = {"output": str(folder / "out"), "store": str(folder / "store")}
    return {**recipe, "host": "cluster", "hosts": hosts, **places, **changes}


def content(model: Path) -> dict[str, str]:
    return {str(file.relative_to(model)): fingerprint.file_digest(file) for file in fingerprint.files_under(model)}


@pytest.mark.parametrize("step", ["lora", *(["merge-adapter", "build-genai"] if EVERYTHING else [])])
def test_a_node_that_dies_in_the_middle_of_a_step_costs_one_interval(
    recipe: dict[str, Any], here: Path, machines: Machines, tmp_path: Path, step: str
) -> None:
    killed: list[int] = []
    done: list[int] = []
    half = STEPS // 2 if step == "lora" else 0

    def kill(event: Mapping[str, Any]) -> None:
        if event["event"] != "progress" or event["step"] != step:
            return
        done.append(event["done"])
        kept = not half or any(tmp_path.glob("store/hosts/share/jobs/*/scratch/current"))
        if event["done"] >= half and kept and not killed:
            killed.append(machines.busy())
            machines.cluster.kill(killed[0])

    outcome = api.run(on_ray(recipe, machines, tmp_path), listeners=(kill,))
    machines.caches[killed[0]] = machines.cluster.add(killed[0])

    assert content(outcome.model) == content(here)
    after = done[next(n for n, number in enumerate(done) if number >= half) :]
    assert not half or min(after) > 0, "the other node began from the beginning"
    assert {one["made_in"]["host"] for one in outcome.report["steps"]} == {"cluster"}


def test_a_worker_and_a_process_of_a_node_that_are_killed_cost_one_interval_each(
    recipe: dict[str, Any], here: Path, machines: Machines, tmp_path: Path
) -> None:
    left = ["picual.executors.worker", "picual.executors.node"]
    done: list[int] = []

    def kill(event: Mapping[str, Any]) -> None:
        if event["event"] != "progress" or event["step"] != "lora":
            return
        done.append(event["done"])
        kept = any(tmp_path.glob("store/hosts/share/jobs/*/scratch/current"))
        if left and kept and event["done"] >= STEPS // 2:
            for one in processes_on_nodes(left.pop(0)):
                one.kill()

    outcome = api.run(on_ray(recipe, machines, tmp_path), listeners=(kill,))

    assert not left
    assert content(outcome.model) == content(here)
    half = next(n for n, number in enumerate(done) if number >= STEPS // 2)
    assert min(done[half:]) > 0, "it began from the beginning"


def processes_on_nodes(module: str) -> list[psutil.Process]:
    """Return the processes of a module that nodes on this machine have started, at work or warm."""
    found = [one for one in psutil.process_iter(["cmdline"]) if module in (one.info["cmdline"] or [])]
    return [one for one in found if any("ray::" in parent.name() for parent in one.parents())]


@pytest.mark.skipif(not EVERYTHING, reason="a minute; `make bench` runs it, and here one dies in tests/unit/cli")
def test_a_driver_that_dies_is_followed_by_another_that_goes_on(
    recipe: dict[str, Any], here: Path, machines: Machines, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(on_ray(recipe, machines, tmp_path)))
    command = [sys.executable, "-m", "picual.cli.main", "run", str(file)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    events = tmp_path / "out" / "run" / "events.jsonl"
    while not events.exists() or f'"done": {STEPS // 2}' not in events.read_text():
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = api.standing(tmp_path / "out")

    ended = subprocess.run(
        [sys.executable, "-m", "picual.cli.main", "runs", "fetch", str(tmp_path / "out")], check=False
    )

    assert before.state == "died"
    assert ended.returncode == 0
    assert content(tmp_path / "out" / "model") == content(here)
    assert api.standing(tmp_path / "out").state == "ended"


def test_a_search_in_parallel_ends_with_the_winner_that_it_has_here(
    recipe: dict[str, Any], machines: Machines, tmp_path: Path
) -> None:
    searched = {
        **recipe,
        "passes": {"rtn": {"bits": {"search": [2, 4, 8]}, "block": {"search": [16, 32, 64, 128]},
                           "symmetric": {"search": [True, False]}}, "build-genai": {}},
        "metrics": {"size": {}, "kl": {"type": "divergence", "data": "rows", "length": 64}},
        "search": {"minimize": "kl", "subject_to": {"size": "<= 0.95 * baseline"}, "sampler": "random",
                   "trials": 24 if EVERYTHING else 8, "parallel": 4},
    }  # fmt: skip
    local = {**searched, "output": str(tmp_path / "local"), "store": str(tmp_path / "local-store")}

    away = api.run(on_ray(searched, machines, tmp_path)).report
    home = api.run(local).report

    def told(report: dict[str, Any]) -> list[Any]:
        trials = sorted(report["trials"], key=lambda trial: trial["number"])
        return [(trial["number"], trial["candidate"], trial["state"]) for trial in trials]

    assert told(away) == told(home)
    assert away["search"]["best"] == home["search"]["best"]
    assert away["best"]["size"] == home["best"]["size"]


def test_a_node_that_has_died_unnoticed_is_left_out(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    alive = connect(machines.cluster.address).nodes()
    gone = Node("ab" * 28, "127.0.0.9", 1, 1, 0)

    found = look_at_each([gone, *alive], tmp_path, "token")

    assert set(found) == set(alive)
    assert all(one["sees"] for one in found.values())


def test_what_no_node_has_is_refused_before_anything_is_submitted(
    recipe: dict[str, Any], machines: Machines, tmp_path: Path
) -> None:
    with pytest.raises(NotEnough, match="no node of the Ray cluster has 64 cores") as caught:
        api.run(on_ray(recipe, machines, tmp_path, threads=64))

    assert "the largest has 2 cores" in caught.value.what
    assert not list((tmp_path / "store" / "hosts" / "share").glob("jobs/*"))


@pytest.mark.skipif(not EVERYTHING, reason="a cluster of its own; `make bench` runs it")
def test_a_cluster_with_a_token_is_used_from_a_machine_that_is_no_node(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    cluster = LocalRay(tmp_path / "ray", token="a" * 64)
    file = tmp_path / "recipe.json"
    passes = {"build-genai": recipe["passes"]["build-genai"]}
    hosts = {"cluster": {"type": "ray", "address": cluster.client_address}}
    places = {"output": str(tmp_path / "out"), "store": str(tmp_path / "store")}
    file.write_text(json.dumps({**recipe, "passes": passes, "host": "cluster", "hosts": hosts, **places}))

    def picual(*words: str, **access: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "picual.cli.main", "run", str(file), *words]
        environment = {**os.environ, **cluster.access, **access}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    try:
        cluster.add(2)
        refused = picual(RAY_AUTH_TOKEN="b" * 64)
        taken = picual()
    finally:
        cluster.stop()
    gone = picual("--store", str(tmp_path / "empty"), "--output", str(tmp_path / "none"))

    assert refused.returncode == gone.returncode == 3
    assert "answers, and refuses this machine or its token" in refused.stderr
    assert "export RAY_AUTH_MODE=token" in refused.stderr
    assert taken.returncode == 0, taken.stderr
    assert {one["made_in"]["host"] for one in api.report(tmp_path / "out")["steps"]} == {"cluster"}
    assert "no Ray cluster answers" in gone.stderr
    assert "a" * 64 not in taken.stderr + taken.stdout + (tmp_path / "out" / "run" / "events.jsonl").read_text()


def test_the_guide_is_as_it_says(machines: Machines, tmp_path: Path, follow: Callable[..., list[str]]) -> None:
    model = str(tiny_model(tmp_path / "model").path)

    follow("ray", {"HuggingFaceTB/SmolLM2-135M-Instruct": model, "HEAD:6379": machines.cluster.address})

    report = api.report(tmp_path / "out")
    assert report["verdict"] == "verified"
    assert len(report["trials"]) == 2
