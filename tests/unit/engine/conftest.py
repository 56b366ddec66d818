"""A whole recipe small enough for a unit test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback.fixture import azure, azure_cloud, workspace  # noqa: F401  # fixtures
from picual.testing.tiny import tiny_model


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that writes model and data and returns a recipe; arguments rename its passes."""

    def write(*, merge: str = "merge-adapter", export: str = "build-genai", steps: int = 2) -> dict[str, Any]:
        model = tiny_model(tmp_path / "model")
        rows = [{"text": f"line {number} of the tiny data set"} for number in range(12)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {
            "version": 1,
            "model": str(model.path),
            "data": {"rows": {"files": str(tmp_path / "rows.jsonl"), "text": "text", "max_length": 64}},
            "passes": {
                "lora": {"data": "rows", "rank": 4, "dtype": "float32", "training": {"max_steps": steps}},
                merge: {},
                export: {"precision": "int4"},
            },
            "metrics": {"size": {}},
            "threads": 1,
            "output": str(tmp_path / "out"),
            "store": str(tmp_path / "store"),
        }

    return write
