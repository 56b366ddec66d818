"""The recipe of `optimize`: limits as bounds, an aim by the limits, rows asked as their columns suggest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue
from picual.recipe.check import check
from picual.recipe.load import load
from picual.recipe.optimizing import note_of, recipe_for
from picual.recipe.schema import Note
from picual.recipe.wish import Wish
from picual.testing.tiny import tiny_model


def rows(folder: Path, *found: dict[str, Any]) -> dict[str, Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return {"files": [str(file)]}


PHRASES = [{"tone": tone, "phrase": f"phrase {n}"} for n, tone in enumerate(["joy", "fear"] * 6)]


@pytest.mark.parametrize(
    ("limits", "bounds", "goal"),
    [
        ({}, {}, "divergence.kl"),
        ({"max_size": "110MB"}, {"size": "<= 110MB"}, "divergence.kl"),
        ({"max_kl": 0.1}, {"divergence.kl": "<= 0.1"}, "size"),
        ({"max_kl": 0.1, "max_size": "1GB"}, {"size": "<= 1GB", "divergence.kl": "<= 0.1"}, "divergence.kl"),
        ({"max_latency": "8ms"}, {"latency.ms_per_token": "<= 8ms"}, "divergence.kl"),
        ({"max_latency": "8ms", "aim": "speed"}, {"latency.ms_per_token": "<= 8ms"}, "latency.ms_per_token"),
        ({"min_accuracy": "0.99x"}, {"accuracy": ">= 0.99 * unquantized"}, "size"),
        ({"min_accuracy": "85%"}, {"accuracy": ">= 85%"}, "size"),
    ],
)
def test_limits_become_bounds_and_decide_what_is_best(
    tmp_path: Path, limits: dict[str, Any], bounds: dict[str, str], goal: str
) -> None:
    model = tiny_model(tmp_path / "model")

    mapping, reasons = recipe_for(Wish(model=str(model.path), data=rows(tmp_path, *PHRASES), **limits))

    assert mapping["search"]["subject_to"] == bounds
    assert mapping["search"]["minimize"] == goal
    assert check(load(mapping)) == []
    assert all(": " in reason or "best" in reason for reason in reasons)


KEPT: dict[str, Any] = {"build-genai": {}}


@pytest.mark.parametrize(
    ("wish", "fields", "sampler", "trials"),
    [
        ({}, {"bits": 4}, None, 1),
        ({"precision": None}, {"bits": {"search": [4, 8]}}, None, 2),
        ({"max_size": "103MB"}, {"max_size": "103MB"}, None, 1),
        ({"max_size": "103", "max_kl": 0.1, "precision": None}, {"max_size": "103MB"}, None, 1),
        ({"max_size": "0.25 * baseline"},
         {"bits_per_weight": {"search": [8.0, 7.25, 6.5, 6.0, 5.5, 5.0, 4.75]}}, "bisect", 7),
        ({"max_kl": 0.1}, {"max_kl": {"search": [0.14, 0.11, 0.09, 0.07, 0.05, 0.035, 0.02]}}, "bisect", 7),
        ({"max_kl": 0.1, "max_size": "1GB", "aim": "size"},
         {"max_size": "1000MB", "max_kl": {"search": [0.14, 0.11, 0.09, 0.07, 0.05, 0.035, 0.02]}}, "bisect", 7),
        ({"min_accuracy": "0.99x"},
         {"bits_per_weight": {"search": [4.75, 5.0, 5.5, 6.0, 6.5, 7.25, 8.0]}}, "bisect", 7),
        ({"max_latency": "8ms", "trials": 3},
         {"bits_per_weight": {"search": [8.0, 7.25, 6.5, 6.0, 5.5, 5.0, 4.75]}}, "bisect", 3),
        ({"max_latency": "8ms", "max_size": "100MB"},
         {"max_size": {"search": ["100MB", "95MB", "90MB", "85MB", "80MB", "75MB", "70MB"]}}, "bisect", 7),
        ({"max_latency": "8ms", "max_kl": 0.1},
         {"bits_per_weight": {"search": [4.75, 5.0, 5.5, 6.0, 6.5, 7.25, 8.0]}}, None, 7),
        ({"max_latency": "8ms", "aim": "speed"}, {"head": "int4", "block": {"search": [64, 128]}}, None, 2),
        ({"precision": "int8"}, {"bits": 8, "effort": "fast"}, None, 1),
        ({"precision": "int8", "max_size": "150MB"},
         {"bits": 8, "effort": "fast", "block": {"search": [32, 64, 128]}}, None, 3),
    ],
)  # fmt: skip
def test_a_wish_becomes_the_fewest_candidates_that_decide(
    tmp_path: Path, wish: dict[str, Any], fields: dict[str, Any], sampler: str | None, trials: int
) -> None:
    model = tiny_model(tmp_path / "model")

    mapping, _ = recipe_for(Wish(model=str(model.path), data=rows(tmp_path, *PHRASES), **wish))

    assert mapping["passes"] == {"quantize": fields, **KEPT}
    assert mapping["search"].get("sampler") == sampler
    assert mapping["search"]["trials"] == trials
    assert check(load(mapping)) == []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_floats_are_exported_as_such(device: str) -> None:
    mapping, _ = recipe_for(Wish(model="owner/name", device=device, precision="fp16"))
    assert mapping["passes"] == {"build-genai": {"precision": "fp16"}}
    assert mapping["target"] == {"device": device}


def test_a_network_whose_graph_takes_no_integers_is_rounded_in_export(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobodys"}')

    passes = recipe_for(Wish(model=str(tmp_path), max_size="100MB"))[0]["passes"]

    assert list(passes) == ["build-genai"]
    assert passes["build-genai"]["precision"] == "int4"
    assert passes["build-genai"]["head"] == {"search": ["int8", "int4"]}


def test_data_are_calibrated_on_when_they_are_enough(tmp_path: Path) -> None:
    few = recipe_for(Wish(model="owner/name", data=rows(tmp_path, *PHRASES)))
    long = rows(
        tmp_path, *({**row, "phrase": f"{row['phrase']} of many {n}"} for n in range(100) for row in PHRASES)
    )
    many = recipe_for(Wish(model="owner/name", data=long))

    assert "data" not in few[0]["passes"]["quantize"]
    assert any("your data are short" in reason for reason in few[1])
    assert many[0]["passes"]["quantize"]["data"] == "data"


def test_text_is_calibrated_on_and_not_asked(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a line of text\n" * 3000)
    text = {"files": [str(tmp_path / "mine.txt")]}

    mapping, _ = recipe_for(Wish(model="owner/name", data=text, max_size="100MB"))

    assert mapping["passes"]["quantize"] == {"max_size": "100MB", "data": "data"}
    assert list(mapping["metrics"]) == ["divergence", "size"]
    assert check(load(mapping)) == []
    with pytest.raises(BadValue, match="nothing says"):
        recipe_for(Wish(model="owner/name", data=text, min_accuracy="0.9"))


def test_reasons_are_noted_where_they_belong() -> None:
    assert note_of("quantize: so: it is") == Note(path="quantize", kind="chosen", text="so: it is")
    whole = "the best is: the smallest"
    assert note_of(whole) == Note(path="search", kind="chosen", text=whole)


def test_an_adapter_is_merged_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    assert list(recipe_for(Wish(model=str(tmp_path)))[0]["passes"]) == ["merge-adapter", "quantize", "build-genai"]
    assert "merge-adapter" in recipe_for(Wish(model={"uri": "owner/name", "adapter": "x"}))[0]["passes"]
    assert list(recipe_for(Wish(model="owner/name"))[0]["passes"]) == ["quantize", "build-genai"]


def test_a_text_and_a_label_are_told_apart_by_how_often_they_return(tmp_path: Path) -> None:
    mapping, reasons = recipe_for(Wish(model="owner/name", data=rows(tmp_path, *PHRASES)))

    assert mapping["data"]["data"]["prompt"] == "{phrase}"
    assert mapping["data"]["data"]["response"] == "{tone}"
    assert mapping["metrics"]["accuracy"]["by"] == "likelihood"
    assert any("`phrase`" in reason and "--prompt" in reason for reason in reasons)


def test_columns_that_are_named_by_custom_are_taken_so(tmp_path: Path) -> None:
    data = rows(tmp_path, *({"id": "x", "question": f"q {n}", "answer": f"a {n}"} for n in range(4)))

    assert recipe_for(Wish(model="owner/name", data=data))[0]["data"]["data"]["prompt"] == "{question}"


def test_many_short_answers_are_written_and_long_ones_refused(tmp_path: Path) -> None:
    short = rows(tmp_path, *({"question": f"q {n}", "answer": f"{n} items"} for n in range(90)))
    assert "by" not in recipe_for(Wish(model="owner/name", data=short))[0]["metrics"]["accuracy"]

    long = rows(tmp_path, *({"instruction": f"q {n}", "output": f"{n} " * 40} for n in range(90)))
    with pytest.raises(BadValue, match="90 different texts") as caught:
        recipe_for(Wish(model="owner/name", data=long))
    assert "--max-kl 0.1" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "told", "hint"),
    [
        ({"a": "one", "b": "two"}, {}, '--prompt "{a}" --response "{b}"'),
        ({"messages": []}, {}, "--chat messages"),
        ({"a": "one"}, {"template": "{a}"}, "--response"),
    ],
)
def test_rows_that_do_not_say_what_is_asked_are_refused_with_the_options_to_add(
    tmp_path: Path, row: dict[str, Any], told: dict[str, str], hint: str
) -> None:
    with pytest.raises(BadValue) as caught:
        recipe_for(Wish(model="owner/name", data={**rows(tmp_path, row), **told}))

    assert hint in caught.value.hint


def test_an_accuracy_without_rows_is_refused() -> None:
    with pytest.raises(BadValue, match="needs rows"):
        recipe_for(Wish(model="owner/name", min_accuracy="0.9"))
