"""Where Llama's names lie in checkpoints of other layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from picual.errors import UnreadableModel
from picual.models import HfModel
from picual.models.layout import TensorSlice, is_tied, linears, slices_of, unused
from picual.testing.tiny import tiny_model


def test_query_key_and_value_are_rows_of_the_fused_weight(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, layout="phi3")
    fused = "model.layers.1.self_attn.qkv_proj.weight"

    found = [
        slices_of(f"model.layers.1.self_attn.{part}_proj.weight", model.tensors(), model.config())
        for part in "qkv"
    ]

    assert found == [[TensorSlice(fused, 0, 64)], [TensorSlice(fused, 64, 96)], [TensorSlice(fused, 96, 128)]]


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)

    found = slices_of("lm_head.weight", model.tensors(), model.config())

    assert found == [TensorSlice("model.embed_tokens.weight", 0, 320)]
    assert "lm_head.weight" not in linears(model.tensors())


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_head_is_tied_only_when_it_equals_the_embedding(same: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + np.float32(0 if same else 1)
    save_file(tensors, file)

    assert is_tied(model.tensors(), model.config()) is same


def test_a_head_that_is_neither_stored_nor_tied_is_missed(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)

    with pytest.raises(UnreadableModel, match=r"`lm_head\.weight` is missing"):
        is_tied(model.tensors(), {**model.config(), "tie_word_embeddings": False})


def test_rows_that_nothing_read_are_named(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, layout="phi3", layers=1)
    used = {name: {(0, tensor.shape[0])} for name, tensor in model.tensors().items()}
    assert unused(model.tensors(), model.config(), used) == []
    used["model.layers.0.self_attn.qkv_proj.weight"] = {(0, 64), (96, 128)}
    del used["model.norm.weight"]

    left = unused(HfModel(tmp_path).tensors(), model.config(), used)

    assert sorted(left) == ["model.layers.0.self_attn.qkv_proj.weight[64:]", "model.norm.weight"]
