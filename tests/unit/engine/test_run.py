"""A recipe through every floor on a tiny model: verified, not done twice, and a fault is no success."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from picual import api
from picual.errors import NotVerified
from picual.executors.inline import InlineExecutor
from picual.models import HfAdapter, HfModel
from picual.passes import registry
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import PassContext
from picual.testing.tiny import tiny_model


@dataclass(frozen=True, kw_only=True)
class SwapTwo(MergeAdapter):
    """Merges, then swaps two weights of equal shape: the fault a gate must see."""

    name = "swap-two"

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        made = super().run(model, context)
        file = made.path / "model.safetensors"
        tensors: dict[str, np.ndarray] = load_file(file)
        first, second = (f"model.layers.{layer}.self_attn.o_proj.weight" for layer in (0, 1))
        tensors[first], tensors[second] = tensors[second], tensors[first]
        save_file(tensors, file, metadata={"format": "pt"})
        return made


def recipe(folder: Path, merge: str = "merge-adapter") -> dict[str, Any]:
    model = tiny_model(folder / "model")
    rows = [{"text": f"line {number} of the tiny data set"} for number in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "version": 1,
        "model": str(model.path),
        "data": {"rows": {"files": str(folder / "rows.jsonl"), "text": "text", "max_length": 64}},
        "passes": {
            "lora": {"data": "rows", "rank": 4, "dtype": "float32", "training": {"max_steps": 2}},
            merge: {},
            "build-genai": {"precision": "int4"},
        },
        "metrics": {"size": {}},
        "threads": 1,
        "output": str(folder / "out"),
        "store": str(folder / "store"),
    }


def test_a_run_ends_verified_and_a_second_one_does_nothing(tmp_path: Path) -> None:
    written = recipe(tmp_path)

    first = api.run(written)
    second = api.run(written)

    assert first.report["verdict"] == "verified"
    assert all(
        step["checks"] and all(check["passed"] for check in step["checks"]) for step in first.report["steps"]
    )
    assert (first.model / "genai_config.json").is_file()
    assert first.report["best"]["size"]["size_mb"] > 0
    assert first.result.worked
    assert not second.result.worked


def test_two_swapped_weights_are_exit_7_and_leave_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "swap-two", f"{__name__}:SwapTwo")  # what an entry point does
    monkeypatch.setattr(
        registry, "load", lambda name, load=registry.load: SwapTwo if name == "swap-two" else load(name)
    )

    with pytest.raises(NotVerified, match="did not pass verification") as caught:
        api.run(recipe(tmp_path, "swap-two"), executor=InlineExecutor())

    assert caught.value.exit_code == 7
    assert not (tmp_path / "out" / "model").exists()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdict"] == "NotVerified"
