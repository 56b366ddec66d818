"""The seed's config with its pass turned into QLoRA, on the real model: trained in 4 bits, merged, int4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picual import api


@pytest.fixture(scope="module")
def report(seed_folder: Path, phi3: Path, store: Path, picual: Any) -> dict[str, Any]:
    config = json.loads((seed_folder / "seed-local.json").read_text())
    config["passes"]["lora"]["type"] = "QLoRA"
    settings = {"double_quant": True, "quant_type": "nf4", "compute_dtype": "bfloat16"}
    config["passes"]["lora"]["config"] |= settings
    assert config["passes"]["merge_adapter_weights"] == {"type": "MergeAdapterWeights"}
    assert config["passes"]["builder"] == {"type": "ModelBuilder", "config": {"precision": "int4"}}
    (seed_folder / "qlora.json").write_text(json.dumps(config))
    options = ["--model", str(phi3), "--host", "local", "--target", "local", "--store", str(store)]
    short = ["--set", "passes.lora.training.max_steps=4", "--set", "data.dataset_default_train.max_length=256"]
    picual("run", "--config", "qlora.json", *options, *short, "-o", "out-qlora", folder=seed_folder)
    return api.report(seed_folder / "out-qlora")


def step(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in report["steps"] if one["pass"] == name)


def test_every_step_is_verified(report: dict[str, Any]) -> None:
    assert report["verdict"] == "verified"
    assert [one["pass"] for one in report["steps"]] == ["qlora", "merge-adapter", "build-genai"]


def test_the_base_is_held_in_a_seventh_of_float32(report: dict[str, Any]) -> None:
    metrics = step(report, "qlora")["metrics"]
    assert 4.1 < metrics["base_bits_a_weight"] < 4.2
    assert metrics["base_bytes"] < 0.35 * 4 * 106_000_000
    assert 0 < metrics["eval_loss"] < 6


def test_the_merged_model_is_the_network_that_was_trained(report: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in step(report, "merge-adapter")["checks"]}
    assert checks["merge-live"]["measured"] < 1e-4
    assert checks["merge-as-trained"]["passed"]
    assert "60 weights" in checks["merge-as-trained"]["detail"]  # the layers without an adapter


def test_the_notes_say_no_more_that_4_bits_are_ignored(report: dict[str, Any]) -> None:
    kinds = {note["path"].rpartition(".")[2]: note["kind"] for note in report["notes"]}
    assert kinds["double_quant"] == kinds["quant_type"] == "mapped"


def test_the_deployed_model_answers(report: dict[str, Any], seed_folder: Path) -> None:
    assert api.generate(seed_folder / "out-qlora" / "model", "The weather today is", max_new_tokens=4, raw=True)
