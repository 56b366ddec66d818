"""The recipe of `optimize`: limits as bounds, an aim by the limits, rows asked as their columns suggest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue
from picual.recipe.check import check
from picual.recipe.load import load
from picual.recipe.optimizing import Wish, recipe_for
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
        ({"max_latency": "8ms"}, {"latency.ms_per_token": "<= 8ms"}, "size"),
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


def test_an_adapter_is_merged_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    assert list(recipe_for(Wish(model=str(tmp_path)))[0]["passes"]) == ["merge-adapter", "build-genai"]
    assert "merge-adapter" in recipe_for(Wish(model={"uri": "owner/name", "adapter": "x"}))[0]["passes"]
    assert list(recipe_for(Wish(model="owner/name"))[0]["passes"]) == ["build-genai"]


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
