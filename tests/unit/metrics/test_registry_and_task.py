from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue, StepFailed, UnknownName
from picual.hardware import Target
from picual.metrics import registry, task
from picual.models import GenaiModel, HfModel


@pytest.mark.parametrize("name", registry.names())
def test_every_metric_is_a_frozen_value_whose_fields_say_what_they_mean(name: str) -> None:
    kind = registry.load(name)
    metric = registry.build(name, {})

    assert kind.name == name
    assert not kind.keys or kind.key in kind.keys
    assert kind.cost in range(5)
    assert (kind.cost == 4) is kind.timed  # what is timed is taken last
    assert (metric.probe() is None) or metric.probe() != metric
    assert metric == registry.build(name, {})
    assert hash(metric) == hash(registry.build(name, {}))
    assert all(item.metadata["help"].endswith(".") for item in dataclasses.fields(kind))  # type: ignore[arg-type]
    first = dataclasses.fields(kind)  # type: ignore[arg-type]
    if first:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(metric, first[0].name, None)


def test_an_unknown_metric_or_field_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown metric `accurcy`") as caught:
        registry.load("accurcy")
    assert "`accuracy`" in caught.value.hint
    with pytest.raises(UnknownName, match="no field `windws`") as caught:
        registry.build("perplexity", {"windws": 3})
    assert "`windows`" in caught.value.hint


def test_a_mapping_in_a_field_is_hashable() -> None:
    metric = registry.build("divergence", {"reference": {"kind": "hf", "path": "/x"}})

    assert hash(metric) == hash(registry.build("divergence", {"reference": {"path": "/x", "kind": "hf"}}))


def test_listing_and_loading_metrics_imports_nothing_heavy() -> None:
    program = (
        "import sys; from picual.metrics import registry, task\n"
        "[registry.load(name) for name in registry.names()]\n"
        "heavy = 'numpy', 'torch', 'transformers', 'sklearn', 'onnxruntime'\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def run(payload: Mapping[str, Any], folder: Path, events: list[tuple[str, Any]] | None = None) -> dict[str, Any]:
    seen = events if events is not None else []
    return task.run(
        payload, folder=folder, seed=0, threads=1, on_event=lambda name, values: seen.append((name, dict(values)))
    )


def test_a_job_measures_a_model_from_its_wire_form_and_answers_in_json(
    taught_genai: GenaiModel, tones: dict[str, str], tone_template: str, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"phrase": p, "tone": t}) + "\n" for p, t in tones.items()))
    payload = {
        "metric": "accuracy",
        "fields": {"data": "tone", "expect": "{tone}"},
        "model": taught_genai.to_wire(),
        "target": Target().to_wire(),
        "data": {"tone": DataConfig(files=(str(rows),), template=tone_template).to_wire()},
    }
    events: list[tuple[str, Any]] = []

    answer = run(json.loads(json.dumps(payload)), tmp_path, events)

    assert answer["values"]["accuracy"] == 1.0
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 8
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert events == [("progress", {"done": 8, "total": 8, "note": "answers"})]


def test_a_metric_of_the_data_needs_no_model(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"a": f"{k} {k}", "b": k}) + "\n" for k in ("red", "blue") * 4))
    config = DataConfig(files=(str(rows),), template="{a}{b}", holdout=0.25)
    payload = {
        "metric": "bag-of-words", "fields": {"train": "d"}, "model": None,
        "target": Target().to_wire(), "data": {"d": config.to_wire()},
    }  # fmt: skip

    assert run(payload, tmp_path)["values"]["accuracy"] == 1.0


def test_a_model_whose_logits_are_not_numbers_gives_an_error_not_a_number(taught: HfModel, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(taught.path, tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    (tmp_path / "t.txt").write_text("some text " * 20)
    payload = {
        "metric": "perplexity", "fields": {"file": str(tmp_path / "t.txt"), "length": 64},
        "model": HfModel(tmp_path / "m").to_wire(), "target": Target().to_wire(), "data": {},
    }  # fmt: skip

    with pytest.raises(StepFailed, match="not finite"):
        run(payload, tmp_path)


def test_a_job_hands_on_what_timings_compare_with_and_whether_code_may_run(
    taught: HfModel, taught_genai: GenaiModel, tmp_path: Path
) -> None:
    payload = {"metric": "latency", "fields": {"prompt_tokens": 8, "new_tokens": 3, "repeats": 2},
               "model": taught_genai.to_wire(), "against": taught.to_wire()}  # fmt: skip
    assert run(payload, tmp_path)["values"]["speedup"] > 1  # torch takes far longer over so small a network
    (tmp_path / "mine.py").write_text("def measure(model, rows, options): return 5")
    payload = {"metric": "code", "fields": {"code": str(tmp_path / "mine.py")}, "model": taught.to_wire()}
    assert run({**payload, "trust": True}, tmp_path)["values"] == {"value": 5}
    with pytest.raises(BadValue, match="only when it is trusted"):
        run(payload, tmp_path)


def test_numbers_of_other_libraries_become_plain_ones() -> None:
    import numpy as np

    plain = task.plain({"a": np.float32(0.5), "b": (np.int64(3), True, None, "x")}, "m")

    assert plain == {"a": 0.5, "b": [3.0, True, None, "x"]}
    assert type(plain["a"]) is float
