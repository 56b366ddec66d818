"""Tiny quantized models, and a way to run one pass on one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.hardware import Target
from picual.models import GenaiModel, HfModel, QuantizedHfModel
from picual.passes.base import Pass, PassContext
from picual.passes.export.genai import BuildGenai
from picual.testing.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    """A tied Llama of two layers."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[QuantizedHfModel, PassContext]]:
    """Check and run a pass in a fresh folder."""

    def running(
        a_pass: Pass[Any, Any], model: Any, *, name: str = "one", data: dict[str, DataConfig] | None = None
    ) -> tuple[QuantizedHfModel, PassContext]:
        folder, scratch = tmp_path / name / "out", tmp_path / name / "scratch"
        folder.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        context = PassContext(folder=folder, scratch=scratch, data=data or {}, threads=1, seed=7)
        a_pass.check(model, Target())
        return a_pass.run(model, context), context

    return running


@pytest.fixture
def export() -> Callable[..., GenaiModel]:
    """Export a quantized model into a new folder, without running the gate."""

    def exporting(model: QuantizedHfModel, folder: Path, **fields: Any) -> GenaiModel:
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir()
        context = PassContext(folder=folder / "out", scratch=folder / "scratch", threads=1)
        return BuildGenai(**fields).run(model, context)

    return exporting
