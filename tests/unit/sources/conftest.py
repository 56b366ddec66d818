from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from loopback.fixture import azure, azure_cloud, workspace
from picual.models import HfModel, Model, model_from_wire
from picual.sources.task import run
from picual.testing import tiny_model

__all__ = ["azure", "azure_cloud", "workspace"]


@pytest.fixture
def tiny(tmp_path: Path) -> HfModel:
    return tiny_model(tmp_path / "tiny")


@pytest.fixture
def aged() -> Callable[[Path], Path]:
    """Make a file older than the clock's tick: only then is its digest remembered."""

    def age(file: Path) -> Path:
        then = time.time() - 100
        os.utime(file, (then, then))
        return file

    return age


Fetch = Callable[..., tuple[Model, dict[str, Any]]]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Run the job ``fetch`` as a worker does and return the model, and what the job said."""
    count = iter(range(100))

    def go(uri: str, **given: Any) -> tuple[Model, dict[str, Any]]:
        job = tmp_path / f"job-{next(count)}"
        (job / "out").mkdir(parents=True)
        seen: list[tuple[str, Mapping[str, Any]]] = []
        payload = {"source": {"uri": uri, "folder": str(tmp_path), **given}}
        told = run(payload, folder=job, seed=0, threads=1, on_event=lambda *event: seen.append(event))
        assert [name for name, _ in seen] == ["progress", "progress"]
        return model_from_wire(told["model"], job / "out"), told

    return go
