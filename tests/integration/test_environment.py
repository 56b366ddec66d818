"""Steps in another environment, with another pinned runtime than the driver's; the guides of hosts here."""

from __future__ import annotations

import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from picual import api
from picual.errors import EnvironmentFault, MissingDependency
from picual.testing.tiny import tiny_model

PINNED = "1.31.0"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def recipe(folder: Path, host: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1, "model": str(tiny_model(folder / "model").path), "threads": 1,
        "hosts": {"other": {"type": "environment", **host}},
        "passes": {"rtn": {}, "build-genai": {"host": "other"}}, "metrics": {"size": {}},
        "output": str(folder / "out"), "store": str(folder / "store"),
    }  # fmt: skip


def test_a_step_runs_with_a_runtime_of_its_own(tmp_path: Path) -> None:
    assert metadata.version("onnxruntime") != PINNED
    (tmp_path / "lock.txt").write_text(f"onnxruntime=={PINNED}\n")
    written = recipe(tmp_path, {"requirements": str(tmp_path / "lock.txt"), "inherit": True})

    outcome = api.run(written)

    first, second = (step["made_in"] for step in outcome.report["steps"])
    assert first["host"] == "local"
    assert first["libraries"]["onnxruntime"] == metadata.version("onnxruntime")
    assert second["host"] == "other"
    assert second["libraries"]["onnxruntime"] == PINNED
    assert second["libraries"]["torch"] == first["libraries"]["torch"]
    assert not api.run(written).result.worked  # the environment and the step are there


def test_an_environment_that_cannot_be_made_or_lacks_what_workers_need_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("onnxruntime==0.0.0\n")
    with pytest.raises(EnvironmentFault, match="could not be made") as caught:
        api.run(recipe(tmp_path, {"requirements": str(tmp_path / "lock.txt"), "inherit": True}))
    assert "onnxruntime==0.0.0" in caught.value.what
    venv.create(tmp_path / "bare", with_pip=False)
    with pytest.raises(MissingDependency, match="`filelock`") as lacking:
        api.run(recipe(tmp_path, {"path": str(tmp_path / "bare")}))
    assert "-m pip install" in lacking.value.hint
    with pytest.raises(EnvironmentFault, match="there is no Python here"):
        api.run(recipe(tmp_path, {"path": str(tmp_path / "nowhere")}))


def test_the_guide_of_hosts_is_as_it_says(tmp_path: Path, follow: Callable[..., list[str]]) -> None:
    follow("hosts", {MODEL: str(tiny_model(tmp_path / "model").path)})

    assert api.report(tmp_path / "out")["verdict"] == "verified"


def test_the_guide_of_containers_is_as_it_says(tmp_path: Path, follow: Callable[..., list[str]]) -> None:
    assert follow("docker", {MODEL: str(tiny_model(tmp_path / "model").path)})
