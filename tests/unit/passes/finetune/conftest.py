from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.models import HfAdapter, HfModel
from picual.passes.base import PassContext
from picual.passes.finetune.lora import Lora
from picual.space import Settings
from picual.testing import tiny_model

PHRASES = [
    {"phrase": "we won " + "and won " * (index % 5), "tone": ("joy", "fear", "sadness")[index % 3]}
    for index in range(24)
]


def write_tones(folder: Path, **fields: Any) -> DataConfig:
    path = folder / "tones.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PHRASES), encoding="utf-8")
    return DataConfig(files=(str(path),), template="{phrase}: {tone}<|end|>", **fields)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def tones(tmp_path: Path) -> DataConfig:
    return write_tones(tmp_path, holdout=0.3)


Train = Callable[..., tuple[HfAdapter, PassContext]]


@pytest.fixture
def train(llama: HfModel, tmp_path: Path) -> Train:
    """Train on the tones; `training` and `data` go to their own places, the rest to the pass."""
    count = 0

    def run(
        *, training: dict[str, Any] | None = None, data: dict[str, Any] | None = None, scratch: Path | None = None,
        model: HfModel = llama, kind: type[Lora] = Lora, **fields: Any,
    ) -> tuple[HfAdapter, PassContext]:  # fmt: skip
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir()
        context = PassContext(
            folder=folder / "out", scratch=scratch or folder / "scratch", seed=7, threads=1,
            data={"tones": write_tones(tmp_path, **(data or {}))},
        )  # fmt: skip
        given = {"data": "tones", "dtype": "float32", **fields}
        a_pass = kind(**given, training=Settings({"max_steps": 3, **(training or {})}))
        a_pass.check(model, context.target)
        return a_pass.run(model, context), context

    return run
