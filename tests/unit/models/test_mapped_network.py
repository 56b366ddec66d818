from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from picual.models import HfModel
from picual.models.hf_loading import load_checkpoint
from picual.models.mapped_network import load_mapped
from picual.testing import tiny_model

IDS = torch.tensor([[5, 9, 23, 7]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_mapped_network_gives_the_same_logits(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tmp_path / "model", tied=tied)
    network = load_mapped(model, "float32", tmp_path)
    assert network is not None
    with torch.no_grad():
        found, expected = (one(input_ids=IDS).logits for one in (network, load_checkpoint(model, torch.float32)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_changed_weight_does_not_reach_the_file(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    before = model.weight_files()[0].read_bytes()
    network = load_mapped(model, "float32", tmp_path)
    assert network is not None
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert model.weight_files()[0].read_bytes() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_another_type_are_written_as_it_once(tmp_path: Path, dtype: str) -> None:
    model = tiny_model(tmp_path / "model")
    network = load_mapped(model, dtype, tmp_path)
    expected = load_checkpoint(model, getattr(torch, dtype)).state_dict()
    assert network is not None
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
    assert (tmp_path / f"weights.{dtype}").stat().st_size == 2 * sum(w.numel() for w in network.parameters())


def test_a_checkpoint_with_other_names_is_not_mapped(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    (file,) = model.weight_files()
    weights = {f"old.{name}": weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert load_mapped(HfModel(model.path), "float32", tmp_path) is None
