"""An adapter trained on the int4 weights that it ships with, on a real model: beside its base, and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual import api

Command = Callable[..., Any]
PROMPT = "Phrase: we won the cup at last\nTone:"
RECIPE = """\
version: 1
model: MODEL
data: {tones: {files: tones.jsonl, template: "Phrase: {phrase}\\nTone: {tone}"}}
passes:
  quantize: {effort: fast}
  lora: {data: tones, rank: 8, alpha: 16, training: {max_steps: 8, learning_rate: 1e-3}}
  build-genai: {}
output: out
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phi3: Path, store: Path, picual: Command) -> Path:
    """A folder with the deployed model in `out`, and in `plain` its base exported alone."""
    place = tmp_path_factory.mktemp("adapters")
    rows = [{"phrase": f"we won the cup number {number}", "tone": "joy"} for number in range(16)]
    (place / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(phi3)))
    picual("run", "recipe.yaml", "--store", str(store), folder=place)
    steps = RECIPE.replace("MODEL", str(phi3)).splitlines()
    (place / "plain.yaml").write_text("\n".join(line for line in steps if "lora:" not in line))
    picual("run", "plain.yaml", "--store", str(store), "-o", "plain", folder=place)
    return place


def test_every_step_is_verified_and_the_runtime_has_the_adapter(folder: Path) -> None:
    report = api.report(folder / "out")
    assert report["verdict"] == "verified"
    checks = {check["name"]: check for check in report["steps"][-1]["checks"]}
    assert checks["runtime-logits"]["measured"] < 1e-3
    assert "with adapter `adapter`" in checks["runtime-tokens"]["detail"]
    assert checks["adapter-delta"]["passed"]


def test_the_base_is_on_the_disk_as_without_an_adapter(folder: Path) -> None:
    data = [(folder / run / "model" / "model.onnx.data").read_bytes() for run in ("out", "plain")]
    assert data[0] == data[1]


def test_the_adapter_answers_and_without_it_the_base_does(folder: Path, picual: Command) -> None:
    def answer(run: str, *options: str) -> str:
        words = ("generate", f"{run}/model", PROMPT, "--raw", "--max-new-tokens", "8", "--json", *options)
        return str(json.loads(picual(*words, folder=folder).stdout)["answer"])

    assert answer("out").strip().startswith("joy")
    assert answer("out", "--adapter", "none") == answer("plain") != answer("out")
