"""A recipe through every floor on a tiny model: verified, reported, and not done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from picual import api, report
from picual.errors import BadValue, Corrupt, NotMeasured
from picual.executors.inline import InlineExecutor
from picual.store.local import Store
from picual.testing.tiny import tiny_model

Write = Callable[..., dict[str, Any]]


def test_a_run_ends_verified_and_a_second_one_does_nothing(tiny_recipe: Write) -> None:
    written = tiny_recipe()

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


def test_the_report_is_as_its_schema_says_and_can_be_read_again(tiny_recipe: Write) -> None:
    outcome = api.run(tiny_recipe(), executor=InlineExecutor)

    jsonschema.validate(outcome.report, report.schema())
    assert api.report(outcome.output) == outcome.report
    with pytest.raises(BadValue, match="no report"):
        api.report(outcome.output / "run")


def test_a_model_is_measured_without_a_run(tiny_recipe: Write) -> None:
    written = tiny_recipe()

    values = api.evaluate(written["model"], {"size": {}})

    assert values["size"]["size_mb"] > 0


def test_what_sizes_of_files_tell_is_no_job(tiny_recipe: Write, tmp_path: Path) -> None:
    written = tiny_recipe()
    written |= {"passes": {"build-genai": {"precision": "int4"}}, "metrics": {"size": {}}}
    store = Store(tmp_path / "own")

    outcome = api.run(written, store=store.root, executor=InlineExecutor)

    there = sum(file.stat().st_size for file in outcome.model.glob("*.onnx*")) / 1e6
    assert outcome.report["best"]["size"]["size_mb"] == there
    assert not [entry for entry in store.entries() if entry.manifest.label.startswith("evaluate")]


def test_a_fresh_run_does_steps_checks_and_measurements_again_to_the_same_bytes(tiny_recipe: Write) -> None:
    written = tiny_recipe()
    first = api.run(written, executor=InlineExecutor)
    data = (first.model / "model.onnx.data").read_bytes()

    again = api.run(written, fresh=True, executor=InlineExecutor)

    assert again.result.worked
    assert not any(step.cached for step in again.result.steps)
    assert [step.key for step in again.result.steps] == [step.key for step in first.result.steps]
    assert (again.model / "model.onnx.data").read_bytes() == data


def test_each_answer_is_written_where_the_report_says(tiny_recipe: Write) -> None:
    written = tiny_recipe()
    written["passes"] = {"build-genai": {"precision": "int4"}}
    written["data"] = {
        "asked": {"files": written["data"]["rows"]["files"], "prompt": "{text}", "response": "tone"}
    }
    written["metrics"] = {"accuracy": {"data": "asked", "split": "all", "max_samples": 3}}

    found = api.run(written, executor=InlineExecutor).report

    (file,) = found["best"]["accuracy"]["files"]
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert [row["expected"] for row in rows] == ["tone"] * 3
    assert "accuracy-of-final" in file
    assert found["baseline"]["accuracy"]["files"] != [file]


def test_a_metric_that_fails_takes_neither_the_model_nor_the_other_numbers(
    tiny_recipe: Write, tmp_path: Path
) -> None:
    written = tiny_recipe()
    written["passes"] = {"build-genai": {"precision": "int4"}}
    (tmp_path / "short.txt").write_text("few words")
    written["metrics"] = {"perplexity": {"file": str(tmp_path / "short.txt")}, "size": {}}

    with pytest.raises(NotMeasured, match="`perplexity` of baseline") as caught:
        api.run(written, executor=InlineExecutor)

    found = api.report(tmp_path / "out")
    assert caught.value.exit_code == 4
    assert found["model"] == str(tmp_path / "out" / "model")
    assert (tmp_path / "out" / "model" / "genai_config.json").is_file()
    assert found["best"]["size"]["size_mb"] > 0


def test_another_model_of_the_same_config_gets_its_graph_from_the_store(
    tiny_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tiny_recipe()
    written |= {"passes": {"build-genai": {"precision": "int4"}}, "metrics": {}}
    store = Store(tmp_path / "graphs")
    api.run(written, store=store.root, executor=InlineExecutor)
    monkeypatch.setattr("picual.graph.skeleton.build_skeleton", None)
    monkeypatch.setattr("picual.passes.export.genai.build_skeleton", None)

    written["model"] = str(tiny_model(tmp_path / "other", seed=1).path)
    outcome = api.run(written, store=store.root, executor=InlineExecutor)

    assert outcome.report["verdict"] == "verified"
    (graph,) = [entry for entry in store.entries() if entry.manifest.label == "prepare build-genai"]
    (file,) = graph.content.iterdir()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    written["passes"] = {"build-genai": {"precision": "int8"}}
    with pytest.raises(Corrupt, match="prepare build-genai"):
        api.run(written, store=store.root, executor=InlineExecutor)
