"""The README's recipe and commands, run as they stand; only the training is cut short."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from picual import api
from picual.testing.tiny import tiny_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SEED = ROOT / "tests" / "unit" / "recipe" / "olive" / "configs" / "seed-local.json"
TONES = Path(api.__file__).parent / "assets" / "tone" / "train.jsonl"
# A search trains nothing and still takes minutes on a real model: its command is given with a tiny one.
TINY = {"optimize": "smollm2-135m"}
SHORT = {
    "run": ["--set", "passes.lora.training.max_steps=2", "--set", "metrics.accuracy.max_samples=8"],
    "optimize": ["--trials", "1", "--data", "tone.jsonl", "--text", "phrase"],
    "quantize": ["--effort", "fast"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("picual ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("readme")
    (place / "recipe.yaml").write_text(blocks("yaml")[0])
    (place / "tone.jsonl").write_text("".join(TONES.read_text().splitlines(keepends=True)[:60]))
    (place / "olive-config.json").write_text(SEED.read_text())
    (place / "dataset").mkdir()
    (place / "dataset" / "dataset-classification.json").write_text((place / "tone.jsonl").read_text())
    return place


def test_the_readme_shows_commands() -> None:
    assert {command.split()[1] for command in commands()} >= {"run", "plan", "generate", "convert"}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_works(command: str, folder: Path, store: Path) -> None:
    environment = {
        **os.environ, "PICUAL_STORE": str(store), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    verb = command.split()[1]
    if verb in TINY:
        command = command.replace(TINY[verb], str(tiny_model(folder / "tiny").path))
    shortened = " ".join([command, *map(shlex.quote, SHORT.get(verb, []))])
    ended = subprocess.run(
        ["bash", "-c", shortened], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )

    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], check=True, capture_output=True, cwd=ROOT)
