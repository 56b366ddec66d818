from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from picual_example_prune.magnitude import MagnitudePrune, prune

from picual.errors import BadValue
from picual.hardware import Target
from picual.models import HfModel
from picual.models.safetensors_file import BYTES, TensorInfo, read_pieces
from picual.passes.base import PassContext
from picual.testing import PassContract, tiny_model


def in_two_shards(folder: Path) -> HfModel:
    from transformers import AutoModelForCausalLM

    tiny_model(folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="250KB")
    return HfModel(folder)


def quantized(folder: Path) -> HfModel:
    """A checkpoint whose linear layers are not floats."""
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 320}))
    save_file({"a.weight": np.zeros((4, 4), dtype=np.int8)}, folder / "model.safetensors")
    return HfModel(folder)


class TestContract(PassContract):
    a_pass = MagnitudePrune(sparsity=0.25, keep=("o_proj",))
    a_model = staticmethod(in_two_shards)
    a_refusal = staticmethod(quantized)


def values(tensor: TensorInfo) -> np.ndarray:
    assert tensor.dtype == "F32"
    raw = b"".join(read_pieces(tensor))
    return np.frombuffer(raw, dtype=np.float32).reshape(tensor.shape)


def run(a_pass: MagnitudePrune, model: HfModel, root: Path) -> HfModel:
    context = PassContext(folder=root / "out", scratch=root / "scratch")
    context.folder.mkdir()
    context.scratch.mkdir()
    return a_pass.run(model, context)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.9])
def test_the_smallest_weights_are_zero_and_the_others_are_unchanged(sparsity: float, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")

    after = run(MagnitudePrune(sparsity=sparsity), model, tmp_path)

    pruned = 0
    for name, tensor in model.tensors().items():
        old, new = values(tensor), values(after.tensors()[name])
        if old.ndim != 2 or "embed" in name:
            assert np.array_equal(old, new), name
            continue
        pruned += 1
        gone = new == 0
        assert gone.sum() == int(sparsity * old.size), name
        assert np.array_equal(old[~gone], new[~gone]), name
        if gone.any():
            assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min(), name
    assert pruned == 14  # seven linear layers in each of two decoder layers


def test_of_equal_weights_the_first_go() -> None:
    bits = np.array([1.0, -1.0, 1.0, 2.0], dtype=np.float32).view(np.uint32)
    assert prune(bits, 0.5).view(np.float32).tolist() == [0.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_are_in_the_order_of_magnitude(dtype: type[np.floating], tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=999).astype(dtype)
    kept = prune(numbers.view(f"<u{BYTES['F16' if dtype is np.float16 else 'F32']}"), 0.5).view(dtype)
    assert np.abs(numbers[kept == 0]).max() <= np.abs(numbers[kept != 0]).min()
    assert (kept == 0).sum() == 499


def test_a_sparsity_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="below 1"):
        MagnitudePrune(sparsity=1.0).check(tiny_model(tmp_path / "model"), Target())
