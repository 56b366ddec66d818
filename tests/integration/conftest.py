"""The real 135M model: fetched once, and worked on in one store, so that no test repeats another's steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from loopback.fixture import azure, azure_cloud, workspace  # noqa: F401  # fixtures
from picual import api

CONFIGS = Path(__file__).parents[1] / "unit" / "recipe" / "olive" / "configs"
TONES = Path(api.__file__).parent / "assets" / "tone" / "train.jsonl"
ROWS = 80
GUIDES = Path(__file__).parents[2] / "docs" / "guides"

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of all integration tests."""
    return tmp_path_factory.mktemp("integration") / "store"


@pytest.fixture(scope="session")
def phi3(store: Path) -> Path:
    """The 135M model in Phi-3's layout: what the seed's `qkv_proj` and `o_proj` are named after."""
    return api.fetch("smollm2-135m", options={"layout": "phi3"}, store=store)


@pytest.fixture(scope="session")
def picual() -> Command:
    """Run the command as a user would, in a folder."""

    def run(*words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "picual.cli.main", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        assert ended.returncode == code, ended.stderr[-4000:]
        return ended

    return run


@pytest.fixture(scope="session")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the configs as published, and the data set they name, with rows of our own."""
    folder = tmp_path_factory.mktemp("seed")
    for name in ("seed-local", "phrase-classification"):
        (folder / f"{name}.json").write_text((CONFIGS / f"{name}.json").read_text())
    rows = [json.loads(line) for line in TONES.read_text().splitlines()[:ROWS]]
    for file in ("dataset/dataset-classification.json", "dataset/dataset-classification.jsonl"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def seed_run(seed_folder: Path, phi3: Path, store: Path, picual: Command) -> Path:
    """The output folder of the seed's workflow, cut to a few short steps."""
    options = ["--model", str(phi3), "--host", "local", "--target", "local", "--store", str(store)]
    short = ["--set", "passes.lora.training.max_steps=4", "--set", "data.dataset_default_train.max_length=256"]
    picual("run", "--config", "seed-local.json", *options, *short, "-o", "out", folder=seed_folder)
    return seed_folder / "out"


@pytest.fixture
def follow(tmp_path: Path) -> Callable[..., list[str]]:
    """Do what a guide says, in a folder of its own: write its recipe, give its commands; return these.

    Words of the recipe may be replaced: a model that would have to be fetched, the address of a cluster.
    """

    def done(guide: str, replaced: Mapping[str, str], variables: Mapping[str, str] | None = None) -> list[str]:
        text = (GUIDES / f"{guide}.md").read_text()
        recipe = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
        for old, new in replaced.items():
            assert old in recipe
            recipe = recipe.replace(old, new)
        (tmp_path / "recipe.yaml").write_text(recipe)
        environment = {
            **os.environ, "PICUAL_STORE": str(tmp_path / "store"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **(variables or {}),
        }  # fmt: skip
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        commands = [line for block in blocks for line in block.splitlines() if not line.startswith("pip install")]
        for command in commands:
            ended = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
            )
            assert ended.returncode == 0, f"{command}: {ended.stderr[-4000:]}"
            while command.endswith("--detach") and api.standing(tmp_path / "out").state == "running":
                time.sleep(0.1)
        return commands

    return done
