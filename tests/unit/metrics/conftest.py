from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from picual.data.base import DataConfig

if importlib.util.find_spec("picual.data.files") is None:  # stands in only until the real reader is there
    files, split = ModuleType("picual.data.files"), ModuleType("picual.data.split")

    def _rows(config: DataConfig) -> list[dict[str, Any]]:
        lines = [line for path in config.paths() for line in path.read_text(encoding="utf-8").splitlines()]
        return [json.loads(line) for line in lines]

    def _kept(rows: list[Any], config: DataConfig) -> int:
        return len(rows) - round(len(rows) * config.holdout)

    files.rows = _rows  # type: ignore[attr-defined]
    split.train_rows = lambda rows, config: rows[: _kept(rows, config)]  # type: ignore[attr-defined]
    split.holdout_rows = lambda rows, config: rows[_kept(rows, config) :]  # type: ignore[attr-defined]
    sys.modules.update({"picual.data.files": files, "picual.data.split": split})


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[dict[str, Any]]], str]:
    """Write rows as JSON lines and return the path."""

    def write(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
