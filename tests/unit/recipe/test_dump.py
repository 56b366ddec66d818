from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picual.recipe.dump import to_mapping, to_yaml
from picual.recipe.load import load
from picual.recipe.schema import Note, Place, Recipe
from picual.recipe.sizes import bytes_of, text_of

FULL: dict[str, Any] = {
    "version": 1,
    "model": {
        "uri": "models/phi",
        "adapter": "a",
        "layout": "phi3",
        "options": {"registry": {"name": "azureml"}},
    },
    "target": {"device": "gpu", "provider": "CUDAExecutionProvider", "memory": "8GiB"},
    "host": "cloud",
    "hosts": {"cloud": {"type": "azureml", "compute": "big"}},
    "data": {
        "tone": {"files": "tone.jsonl", "template": "<|user|>\n{phrase}: 'x' \"y\"\n\t<|end|>\n", "holdout": 0.3},
        "hub": {"name": "owner/data", "split": "test", "text": "text"},
        "two": {"files": ["a.json", "/elsewhere/b.json"], "chat": "messages"},
    },
    "passes": {
        "lora": {"data": "tone", "modules": ["q_proj"], "training": {"learning_rate": 1e-4, "max_steps": 10}},
        "merge-adapter": {},
        "small": {"type": "build-genai", "host": "local", "block": {"search": [32, 64]}},
    },
    "metrics": {"accuracy": {"data": "tone", "expect": "{tone}"}, "perplexity": {"file": "text.txt"}, "size": {}},
    "search": {"minimize": "size"},
    "seed": 3,
    "threads": 2,
    "output": "made",
    "store": "s",
    "log": "debug",
}


def bare(recipe: Recipe) -> Recipe:
    """Without what a second file cannot share: its lines, its notes, its name."""
    nowhere = Place()
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, place=nowhere),
        steps=tuple(dataclasses.replace(step, place=nowhere, places={}) for step in recipe.steps),
        metrics=tuple(dataclasses.replace(metric, place=nowhere, places={}) for metric in recipe.metrics),
        hosts={name: dataclasses.replace(host, place=nowhere) for name, host in recipe.hosts.items()},
        notes=(), places={}, data_places={}, file="",
    )  # fmt: skip


def reread(recipe: Recipe, tmp_path: Path) -> Recipe:
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    return load(path, folder=Path(recipe.folder))


def test_a_recipe_written_as_yaml_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load(FULL, folder=tmp_path)

    assert recipe.problems == ()
    assert bare(reread(recipe, tmp_path)) == bare(recipe)
    assert list(reread(recipe, tmp_path).data) == ["tone", "hub", "two"]


def test_the_native_form_is_what_a_person_would_write(tmp_path: Path) -> None:
    assert to_mapping(load(FULL, folder=tmp_path)) == FULL


def test_defaults_are_left_out(tmp_path: Path) -> None:
    short = {"version": 1, "model": "owner/name", "passes": {"lora": {}}}

    assert (
        to_mapping(load({**short, "target": {"device": "cpu"}, "seed": 0, "log": "info"}, folder=tmp_path))
        == short
    )


def test_the_text_is_readable(tmp_path: Path) -> None:
    text = to_yaml(load(FULL, folder=tmp_path))

    assert text.startswith("version: 1\nmodel:\n  uri: models/phi\n")
    assert "    modules: [q_proj]\n" in text
    assert "      learning_rate: 0.0001\n" in text
    assert 'template: "<|user|>\\n{phrase}' in text
    assert "tone.jsonl" in text
    assert str(tmp_path) not in text


def test_notes_are_comments_at_the_end(tmp_path: Path) -> None:
    note = Note(path="passes.lora.config.double_quant", kind="ignored", text="only QLoRA\nquantizes")
    recipe = dataclasses.replace(load(FULL, folder=tmp_path), notes=(note,))

    assert to_yaml(recipe).endswith("# Notes\n# passes.lora.config.double_quant: ignored: only QLoRA quantizes\n")
    assert bare(reread(recipe, tmp_path)) == bare(recipe)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=plain)
def test_any_value_of_a_field_survives_the_way_through_yaml(tmp_path: Path, value: Any) -> None:
    recipe = load({"version": 1, "model": "a/b", "passes": {"lora": {"x": value}}}, folder=tmp_path)

    assert reread(recipe, tmp_path).steps[0].fields == recipe.steps[0].fields


@pytest.mark.parametrize(
    "word", ["1e-4", "1", "on", "true", "null", "~", "", "0x1f", "<<", "a: b", "# c", "- d", "1."]
)
def test_a_text_that_looks_like_something_else_stays_text(tmp_path: Path, word: str) -> None:
    recipe = load({"version": 1, "model": "a/b", "passes": {"lora": {"x": [word, word]}}}, folder=tmp_path)

    assert reread(recipe, tmp_path).steps[0].fields["x"] == [word, word]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("110MB", 110_000_000),
        ("8 GB", 8_000_000_000),
        ("1.5gb", 1_500_000_000),
        ("2GiB", 2 << 30),
        ("512mib", 512 << 20),
        ("64kB", 64_000),
        ("123", 123),
        ("8 gigs", None),
        ("GB", None),
        ("-1GB", None),
    ],
)
def test_a_size_counts_in_powers_of_ten_and_with_an_i_in_powers_of_two(text: str, size: int | None) -> None:
    assert bytes_of(text) == size


@given(size=st.integers(0, 1 << 50))
def test_a_size_as_text_is_exact(size: int) -> None:
    assert bytes_of(text_of(size)) == size


@pytest.mark.parametrize("letter", ["\x85", "\u2028", "\r", "\t", "\x00", "\ufeff", "é", "😀"])
def test_line_breaks_and_control_characters_of_any_kind_stay_themselves(tmp_path: Path, letter: str) -> None:
    recipe = load(
        {"version": 1, "model": "a/b", "passes": {"lora": {"x": {letter: f"a{letter}b"}}}}, folder=tmp_path
    )

    assert reread(recipe, tmp_path).steps[0].fields["x"] == {letter: f"a{letter}b"}
