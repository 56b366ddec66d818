from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from picual.cli.main import group
from picual.errors import PicualError
from picual.models import HfAdapter
from picual.models.adapter_files import adapters_of, arrays_of
from picual.passes.export.adapter_files import write_adapter
from picual.testing.tiny import tiny_model


def picual(*words: str | Path) -> Result:
    ended = CliRunner().invoke(group, [str(word) for word in words])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit | PicualError):
        raise ended.exception
    return ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, random_adapter: Callable[..., HfAdapter]) -> Path:
    """A folder in which a model was quantized and exported with two adapters, a verb each."""
    place = tmp_path_factory.mktemp("adapters")
    model = tiny_model(place / "tiny")
    random_adapter(model, place / "french", modules=("q_proj", "down_proj"))
    random_adapter(model, place / "german", modules=("q_proj",), rank=2, seed=5)
    store = ["--store", place / "store"]
    folders = json.dumps({name: str(place / name) for name in ("french", "german")})
    for words in (
        ["quantize", place / "tiny", "--effort", "fast", "-o", place / "int4", *store],
        ["export", place / "int4", "--adapters", folders, "-o", place / "out", *store],
    ):
        ended = picual(*words)
        assert ended.exit_code == 0, ended.output
        assert "verified" in ended.stdout
    return place


def test_both_adapters_lie_beside_one_base_and_each_answers(folder: Path) -> None:
    model = folder / "out" / "model"
    assert list(adapters_of(model)) == ["french", "german"]
    answers = {}
    for name in ("french", "german", "none"):
        ended = picual("generate", model, "one two", "--adapter", name, "--max-new-tokens", "24", "--json")
        answers[name] = json.loads(ended.stdout)["answer"]
    assert len(set(answers.values())) == 3
    left_out = picual("generate", model, "one two", "--max-new-tokens", "24", "--json")
    assert json.loads(left_out.stdout)["answer"] == answers["french"]


def test_an_unknown_adapter_is_an_error_of_the_user(folder: Path) -> None:
    ended = picual("generate", folder / "out" / "model", "one", "--adapter", "frensh")
    assert isinstance(ended.exception, PicualError)
    assert ended.exception.exit_code == 2
    assert "did you mean `french`" in ended.exception.hint


@pytest.mark.parametrize("against", ["graph", "base"])
def test_an_adapter_is_converted_to_what_the_export_made_of_it(folder: Path, tmp_path: Path, against: str) -> None:
    file = tmp_path / "made.onnx_adapter"
    options = ["--model", folder / "out" / "model"] if against == "graph" else []
    ended = picual(
        "convert-adapters", folder / "french", "--base", folder / "tiny", "-o", file, *options, "--json"
    )
    assert ended.exit_code == 0, ended.output
    exported = adapters_of(folder / "out" / "model")["french"]
    assert json.loads(ended.stdout) == {"file": str(file), "inputs": len(arrays_of(exported))}
    assert file.read_bytes() == exported.read_bytes()


def test_a_graph_without_the_inputs_is_refused(
    folder: Path, tmp_path: Path, random_adapter: Callable[..., HfAdapter]
) -> None:
    from picual.models import HfModel

    random_adapter(HfModel(folder / "tiny"), tmp_path / "other", modules=("up_proj",))
    ended = picual(
        "convert-adapters", tmp_path / "other", "--base", folder / "tiny", "--model", folder / "out" / "model",
        "-o", tmp_path / "made.onnx_adapter",
    )  # fmt: skip
    assert isinstance(ended.exception, PicualError)
    assert "no input `model.layers.0.mlp.gate_up_proj.lora_A`" in ended.exception.what
    assert not (tmp_path / "made.onnx_adapter").exists()


def test_an_adapter_that_names_no_base_asks_for_it(folder: Path) -> None:
    ended = picual("convert-adapters", folder / "french")
    assert isinstance(ended.exception, PicualError)
    assert "base" in ended.exception.what
    ended = picual("convert-adapters", folder / "tiny")
    assert isinstance(ended.exception, PicualError)
    assert "not an adapter" in ended.exception.what


@pytest.mark.parametrize("form", ["onnx_adapter", "safetensors"])
def test_adapters_are_taken_out_of_an_exported_folder(folder: Path, tmp_path: Path, form: str) -> None:
    ended = picual("extract-adapters", folder / "out" / "model", "-o", tmp_path / "made", "--format", form)

    assert ended.stdout.split() == [str(tmp_path / "made" / f"{name}.{form}") for name in ("french", "german")]
    for name, file in adapters_of(folder / "out" / "model").items():
        made = tmp_path / "made" / f"{name}.{form}"
        found = load_file(made) if form == "safetensors" else arrays_of(made)
        expected = arrays_of(file)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], values) for key, values in expected.items())


def test_a_model_without_adapters_has_none_to_take_out(folder: Path, tmp_path: Path) -> None:
    ended = picual("extract-adapters", folder / "tiny", "-o", tmp_path / "made")
    assert isinstance(ended.exception, PicualError)
    assert "has no adapters" in ended.exception.what


def test_the_order_in_which_values_are_given_changes_no_byte(tmp_path: Path) -> None:
    arrays = {name: np.full((2, 3), index, np.float32) for index, name in enumerate("dacb")}
    write_adapter(tmp_path / "one", arrays)
    write_adapter(tmp_path / "other", dict(reversed(arrays.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
