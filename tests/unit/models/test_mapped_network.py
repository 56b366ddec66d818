from __future__ import annotations

from pathlib import Path

import pytest
import torch

from picual.models import HfModel
from picual.models.hf_loading import load_checkpoint
from picual.models.mapped_network import load_mapped
from picual.testing import tiny_model

IDS = torch.tensor([[5, 9, 23, 7]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_mapped_network_gives_the_same_logits(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tmp_path / "model", tied=tied)
    network = load_mapped(model, "float32")
    assert network is not None
    with torch.no_grad():
        found, expected = (one(input_ids=IDS).logits for one in (network, load_checkpoint(model, torch.float32)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_changed_weight_does_not_reach_the_file(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    before = model.weight_files()[0].read_bytes()
    network = load_mapped(model, "float32")
    assert network is not None
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert model.weight_files()[0].read_bytes() == before


def test_weights_of_another_type_are_not_mapped(tmp_path: Path) -> None:
    assert load_mapped(tiny_model(tmp_path / "model"), "bfloat16") is None
    assert isinstance(tiny_model(tmp_path / "model"), HfModel)
