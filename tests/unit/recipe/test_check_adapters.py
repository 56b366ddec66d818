from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.errors import Problem
from picual.recipe.check import check
from picual.recipe.dump import to_yaml
from picual.recipe.load import load

TEXT = """\
version: 1
model: tiny
data: {tone: {files: tone.jsonl, text: phrase}}
passes:
  quantize: {effort: fast}
  lora: {data: tone}
  build-genai: {adapters: {french: french}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tiny/config.json", "french/adapter_config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    (tmp_path / "tone.jsonl").write_text(json.dumps({"phrase": "so"}))
    return tmp_path


def problems(folder: Path, text: str) -> list[Problem]:
    (folder / "recipe.yaml").write_text(text)
    return check(load(folder / "recipe.yaml"))


def test_an_adapter_trained_on_integers_goes_into_a_graph_unmerged(folder: Path) -> None:
    assert problems(folder, TEXT) == []


def test_adapters_lie_where_the_recipe_does_and_are_written_so_again(folder: Path) -> None:
    assert problems(folder, TEXT) == []
    recipe = load(folder / "recipe.yaml")

    assert recipe.steps[2].fields["adapters"] == {"french": str(folder / "french")}
    assert "french: french" in to_yaml(recipe)


@pytest.mark.parametrize(
    ("old", "new", "where", "what", "hint"),
    [
        ("french: french", "french: frnch", "line 7, step 3 `build-genai`", "adapter `french`: there is none in"
         " `frnch`", "save_pretrained"),
        ("french: french", "adapter: french", "line 7, step 3 `build-genai`", "`adapter` is what the adapter is"
         " called that the model brings", "adapter_name"),
        ("french: french", '"a/b": french', "line 7, step 3 `build-genai`", "`a/b` is no name", "french: FOLDER"),
        ("french: french", "none: french", "line 7, step 3 `build-genai`", "`none` is no name", "french: FOLDER"),
        ("{adapters: {french: french}}", "{precision: int4}", "line 7, step 3 `build-genai`",
         "`precision: int4` would round weights that are integers already", "leave `precision` out"),
        ("{data: tone}", "{data: tone, modules_to_save: [norm]}", "line 6, step 2 `lora`", "trains whole modules",
         "put `merge-adapter` before `build-genai`"),
    ],
)  # fmt: skip
def test_what_cannot_be_deployed_is_named_before_anything_runs(
    folder: Path, old: str, new: str, where: str, what: str, hint: str
) -> None:
    (problem,) = problems(folder, TEXT.replace(old, new))

    assert problem.where == where
    assert what in problem.what
    assert hint in problem.hint


def test_a_base_that_is_made_int4_on_the_way_is_not_rounded_again(folder: Path) -> None:
    text = TEXT.replace("  quantize: {effort: fast}\n", "").replace(
        "{adapters: {french: french}}", "{precision: int4}"
    )
    assert problems(folder, text) == []  # an adapter trained on floats may lie beside an int4 base
    (problem,) = problems(folder, text.replace("{data: tone}", "{data: tone, base: int4}"))
    assert "are integers already" in problem.what
