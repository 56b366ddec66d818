"""The user's conda file, with Picual's worker in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from picual.errors import BadValue
from picual.executors.azureml.conda import adapted
from picual.executors.azureml.host import AzureMl

SEED = """
name: project_environment
channels: [defaults]
dependencies:
  - python=3.8.13
  - pip=22.3.1
  - pip:
      - einops
      - torch>=2.2.0
      - transformers
      - git+https://github.com/microsoft/Olive@jiapli/mlflow_loading_fix#egg=olive-ai[gpu]
      - --extra-index-url https://aiinfra.pkgs.visualstudio.com/PublicPackages/_packaging/ORT-Nightly/pypi/simple/
      - ort-nightly-gpu==1.18.0.dev20240307004
      - onnxruntime-genai-cuda
"""
WANTED = [
    "torch>=2.8",
    "transformers>=5.0",
    "peft>=0.18",
    "onnxruntime-genai-cuda>=0.11; sys_platform != 'darwin'",
]


def pip_of(conda: dict[str, Any]) -> list[str]:
    return next(one["pip"] for one in conda["dependencies"] if isinstance(one, dict))  # type: ignore[no-any-return]


def test_the_seeds_own_file_becomes_one_that_the_worker_runs_in() -> None:
    conda, notes = adapted(yaml.safe_load(SEED), WANTED)

    assert conda["dependencies"][:2] == ["python=3.11", "pip=22.3.1"]
    assert conda["channels"] == ["defaults"]
    assert pip_of(conda) == [
        "einops", "torch>=2.8,>=2.2.0", "transformers>=5.0",
        "onnxruntime-genai-cuda>=0.11; sys_platform != 'darwin'", "peft>=0.18",
    ]  # fmt: skip
    told = "\n".join(notes)
    for part in ("python=3.8.13", "olive-ai", "ort-nightly-gpu", "nightly builds"):
        assert part in told or "Olive@" in told


@pytest.mark.parametrize(("line", "kept"), [
    ("python=3.12", "python=3.12"), ("python>=3.10", "python>=3.10"), ("python=3.9", "python=3.11"),
    ("python==3.10.4", "python=3.11"), ("python", "python"),
])  # fmt: skip
def test_a_python_that_is_new_enough_is_kept(line: str, kept: str) -> None:
    conda, notes = adapted({"dependencies": [line, "pip"]}, [])

    assert conda["dependencies"][0] == kept
    assert bool(notes) == (line != kept)


def test_an_exact_version_of_the_users_stays_and_is_told() -> None:
    conda, notes = adapted({"dependencies": ["python=3.11", "pip", {"pip": ["torch==2.9.0"]}]}, WANTED)

    assert pip_of(conda)[0] == "torch==2.9.0"
    assert "torch>=2.8" not in pip_of(conda)
    assert "torch==2.9.0" in notes[0]


def test_what_is_no_conda_file_is_named() -> None:
    with pytest.raises(BadValue, match="no list `dependencies`"):
        adapted({"name": "x"}, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [("dependencies: [a: {", "is not YAML"), ("- a list", "is no mapping"), ("name: x", "no list `dependencies`")],
)
def test_a_conda_file_that_is_none_is_named_before_anything_runs(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "conda.yaml"
    file.write_text(text)
    workspace = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    host = AzureMl(compute="c", image="i", conda_file=str(file), **workspace)

    (found,) = host.obstacles(tmp_path)

    assert said in found.what
    assert str(file) in found.where
