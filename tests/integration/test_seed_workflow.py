"""The seed's own config file, as it is published, on a real model: trained, merged, exported, verified, used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from transformers import AutoTokenizer

from picual import api


@pytest.fixture(scope="module")
def report(seed_run: Path) -> dict[str, Any]:
    return api.report(seed_run)


def step(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in report["steps"] if one["pass"] == name)


def test_every_step_is_verified(report: dict[str, Any]) -> None:
    assert report["verdict"] == "verified"
    assert [one["pass"] for one in report["steps"]] == ["lora", "merge-adapter", "build-genai"]
    assert all(one["checks"] for one in report["steps"])


def test_the_held_out_share_is_evaluated_though_its_step_never_comes(report: dict[str, Any]) -> None:
    metrics = step(report, "lora")["metrics"]

    assert 0 < metrics["eval_loss"] < 6
    assert metrics["eval_rows"] == pytest.approx(0.3 * (metrics["train_rows"] + metrics["eval_rows"]), abs=1)


def test_what_cannot_be_as_the_config_says_is_named(report: dict[str, Any]) -> None:
    notes = {note["path"]: note for note in report["notes"]}

    assert any("double_quant" in path and note["kind"] == "ignored" for path, note in notes.items())
    assert any("CUDAExecutionProvider" in note["text"] for note in notes.values() if note["kind"] == "replaced")


def test_plain_onnx_runtime_and_genai_agree_on_the_next_token(seed_run: Path) -> None:
    model = seed_run / "model"
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([AutoTokenizer.from_pretrained(model)("The weather today is").input_ids])
    feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for item in session.get_inputs():
        if item.name not in feeds:
            shape = [size if isinstance(size, int) else int(axis == 0) for axis, size in enumerate(item.shape)]
            feeds[item.name] = np.zeros(shape, np.float32)
    best = int(session.run(["logits"], feeds)[0][0, -1].argmax())

    written = api.generate(model, "The weather today is", max_new_tokens=1, raw=True)

    assert AutoTokenizer.from_pretrained(model).decode([best]) == written


def test_template_and_end_of_text_are_the_source_models(seed_run: Path, phi3: Path) -> None:
    made, source = (AutoTokenizer.from_pretrained(folder) for folder in (seed_run / "model", phi3))
    settings = json.loads((seed_run / "model" / "genai_config.json").read_text())["model"]
    ends = settings["eos_token_id"]

    assert made.chat_template == source.chat_template
    assert source.eos_token_id in (ends if isinstance(ends, list) else [ends])


def test_the_same_command_again_does_nothing_and_says_so(
    seed_folder: Path, seed_run: Path, phi3: Path, store: Path, picual: Any
) -> None:
    options = ["--model", str(phi3), "--host", "local", "--target", "local", "--store", str(store)]
    short = ["--set", "passes.lora.training.max_steps=4", "--set", "data.dataset_default_train.max_length=256"]

    again = picual("run", "--config", "seed-local.json", *options, *short, "-o", seed_run.name, folder=seed_folder)

    assert "nothing to do" in again.stderr


def test_memory_and_disk_are_as_forecast(seed_folder: Path, seed_run: Path, phi3: Path, store: Path) -> None:
    changes: dict[str, Any] = {
        "settings": ["passes.lora.training.max_steps=4", "data.dataset_default_train.max_length=256"],
        "overrides": api.Overrides(model=str(phi3), host="local", target="local"),
    }
    plan = api.plan(seed_folder / "seed-local.json", store=seed_folder / "empty", **changes)
    report = api.report(seed_run)
    entries = {entry.manifest.key: entry for entry in api.Store(store).entries()}
    written = sum(
        facts["size"] for one in report["steps"] for facts in entries[one["key"]].manifest.files.values()
    )

    measured = max(one["peak_rss_mb"] for one in report["steps"]) * 1e6
    kept = sum(forecast.disk for forecast in (one.forecast for one in plan.steps) if forecast is not None)

    assert plan.memory == pytest.approx(measured, rel=0.25)
    assert kept == pytest.approx(written, rel=0.25)


def test_the_form_that_was_published_runs_too(seed_folder: Path, phi3: Path, store: Path, picual: Any) -> None:
    options = ["--model", str(phi3), "--host", "local", "--target", "local", "--store", str(store)]
    short = ["--set", "passes.lora.training.max_steps=2"]
    data = next(iter(api.load(seed_folder / "phrase-classification.json").data))
    short += ["--set", f"data.{data}.max_length=128"]

    picual("run", "--config", "phrase-classification.json", *options, *short, "-o", "out2", folder=seed_folder)

    assert api.report(seed_folder / "out2")["verdict"] == "verified"
