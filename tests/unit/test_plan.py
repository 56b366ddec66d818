"""What a plan says before anything runs: what is new, and what stands in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual import _lazy, api
from picual.data import files
from picual.data.base import DataConfig
from picual.errors import PicualError, UnreadableModel
from picual.models import HfAdapter, HfModel
from picual.plan import make_plan
from picual.plan.make import count_rows
from picual.store.local import Store
from picual.testing.tiny import tiny_model


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "model": str(tiny_model(tmp_path / "model").path),
        "passes": {"build-genai": {"precision": "int4"}},
        "output": str(tmp_path / "out"),
        "store": str(tmp_path / "store"),
    }


def obstacles(recipe: dict[str, Any], **changes: Any) -> list[PicualError]:
    return api.obstacles(api.plan(recipe, **changes))


def test_nothing_stands_in_the_way_of_a_good_recipe(recipe: dict[str, Any]) -> None:
    assert obstacles(recipe) == []


def test_a_host_of_a_single_step_is_not_passed_over(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lazy, "is_installed", lambda module: module != "ray")
    recipe["hosts"] = {"cluster": {"type": "ray"}}
    recipe["passes"]["build-genai"]["host"] = "cluster"

    (found,) = obstacles(recipe)

    assert "`host type ray` needs the package `ray`" in found.what
    assert found.exit_code == 3


def test_an_output_folder_under_a_file_is_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    recipe["output"] = str(tmp_path / "taken" / "out")

    (found,) = obstacles(recipe)

    assert "is a file" in found.what
    assert found.hint == "give another: `-o DIR`"
    assert found.exit_code == 3


@pytest.mark.parametrize(("model", "what"), [
    ("broken.gguf", "is not a GGUF file"),
])  # fmt: skip
def test_a_model_that_cannot_be_had_is_known_beforehand(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.gguf").write_bytes(b"xx")
    recipe["model"] = model

    (found,) = obstacles(recipe)

    assert what in found.what


def test_a_target_smaller_than_the_machine_limits_the_memory(recipe: dict[str, Any]) -> None:
    recipe["target"] = {"memory": "1MB"}

    (found,) = obstacles(recipe)

    assert "needs about" in found.what


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"hidden_size": "wide"}, {"num_hidden_layers": -1}])
def test_a_config_without_sizes_is_named_and_no_crash(recipe: dict[str, Any], change: dict[str, Any]) -> None:
    file = Path(recipe["model"]) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(UnreadableModel, match=next(iter(change))) as caught:
        api.plan(recipe)

    assert caught.value.where == str(file)


def test_why_a_step_runs_names_the_field_that_changed(recipe: dict[str, Any]) -> None:
    for file in Path(recipe["model"]).iterdir():
        os.utime(file, (1e9, 1e9))  # digests of files that were just written are not remembered
    api.run(recipe)
    kept = api.plan(recipe).steps[0]
    recipe["passes"]["build-genai"]["block"] = 16

    changed = api.plan(recipe).steps[0]

    assert kept.cached
    assert (changed.cached, changed.why) == (False, "fields.block 32 -> 16")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"data": "all"}, "10 of 10 rows"),
        ({"data": "all", "split": "train"}, "10 of 10 rows"),
        ({"data": "part"}, ""),
        ({"data": "part", "split": "all"}, "7 of 10 rows"),
        ({"data": "other"}, "2 of 3 rows"),
    ],
)
def test_rows_that_were_trained_on_and_are_asked_are_counted(
    recipe: dict[str, Any], tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    files = {"all": range(10), "other": [0, 1, 77]}
    for name, numbers in files.items():
        rows = [{"text": f"phrase {number}", "tone": "joy"} for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "{text}", "response": "{tone}"}
    recipe["data"] = {
        "all": {"files": str(tmp_path / "all.jsonl"), **columns},
        "part": {"files": str(tmp_path / "all.jsonl"), "holdout": 0.3, **columns},
        "other": {"files": str(tmp_path / "other.jsonl"), **columns},
    }
    trained = "part" if asked["data"] == "part" else "all"
    recipe["passes"] = {"lora": {"data": trained, "training": {"max_steps": 1}}, "merge-adapter": {}}
    recipe["metrics"] = {"accuracy": asked}

    warnings = [note.text for note in api.plan(recipe).warnings]

    assert [text.split(" were")[0] for text in warnings] == ([said] if said else [])


def test_what_an_adapter_holds_is_part_of_the_key(
    recipe: dict[str, Any], tmp_path: Path, random_adapter: Callable[..., HfAdapter]
) -> None:
    adapter = random_adapter(HfModel(tmp_path / "model"), tmp_path / "adapter")
    recipe["passes"]["build-genai"]["adapters"] = {"mine": str(adapter.path)}

    def key() -> str | None:
        plan = make_plan(api.load(recipe), Store(tmp_path / "store"), hash_source=True)
        return plan.steps[0].key

    first = key()
    assert first is not None
    moved = random_adapter(HfModel(tmp_path / "model"), tmp_path / "moved")
    recipe["passes"]["build-genai"]["adapters"] = {"mine": str(moved.path)}
    assert key() == first  # it is known by its content, not by its place
    config = moved.adapter_config()
    (moved.path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 3}))
    assert key() != first


def test_rows_are_counted_once_until_their_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one"}\n')
    read = []
    real = files.count_rows
    monkeypatch.setattr(files, "count_rows", lambda config: read.append(config) or real(config))

    def counted(**settings: Any) -> int:
        return count_rows(DataConfig(files=(str(file),), text="text", **settings))

    assert [counted(), counted(), counted(max_length=8)] == [1, 1, 1]
    assert len(read) == 2
    file.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert counted() == 2
