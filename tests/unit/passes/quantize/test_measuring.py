"""What some of the rows say of a weight is what all of them would; a head is weighed as it will be rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from picual.models import HfModel
from picual.numerics.block_sizes import Format
from picual.numerics.sensitivity import Inputs
from picual.passes.base import PassContext
from picual.passes.quantize import measuring
from picual.passes.quantize.network import LayeredNetwork
from picual.passes.quantize.sites import Site, sites_of
from picual.testing.tiny import tiny_model

FORMATS = [Format(bits=4, block=32, symmetric=False), Format(bits=4, block=64, symmetric=False)]


def costs_of(model: HfModel, rows: int, monkeypatch: pytest.MonkeyPatch) -> dict[Format, float]:
    monkeypatch.setattr(measuring, "ROWS", rows)
    torch.manual_seed(0)
    sizes = torch.logspace(-1, 1, 1500)[:, None]  # rows of one weight differ a hundredfold
    weight, gradients = torch.randn(1500, 128) * sizes, torch.rand(1500) / sizes[:, 0]
    inputs = Inputs(128, measuring.BLOCKS)
    inputs.add(torch.randn(512, 128) * torch.linspace(0.1, 3, 128))
    site = Site(("model.layers.0.mlp.down_proj.weight",), (1500,), 128, 0)
    look = measuring._Look(model, {site: FORMATS}, compensated=True)
    look._weigh(site, weight, inputs, gradients)
    return look.costs[site]


def test_rows_that_are_looked_at_stand_for_all(tiny: HfModel, monkeypatch: pytest.MonkeyPatch) -> None:
    few, every = costs_of(tiny, 256, monkeypatch), costs_of(tiny, 1500, monkeypatch)
    for form in FORMATS:
        assert few[form] == pytest.approx(every[form], rel=0.05)
    assert few[FORMATS[0]] < few[FORMATS[1]]


def test_rounding_that_makes_up_for_errors_costs_less(tiny: HfModel, tmp_path: Path) -> None:
    windows = torch.arange(4 * 128).reshape(4, 128) % 250
    sites = dict.fromkeys(sites_of(tiny), FORMATS)
    context = PassContext(folder=tmp_path, scratch=tmp_path, threads=1, seed=7)

    made_up = measuring.measured(tiny, windows, sites, context)
    nearest = measuring.measured(tiny, windows, sites, context, compensated=False)

    assert set(made_up) == set(sites)
    for site in sites:
        for form in FORMATS:
            allowed = 1.1 if site.is_table else 0.95  # rows that are looked up gain nothing by it
            assert made_up[site][form] < allowed * nearest[site][form], (str(site), str(form))


def test_scaled_embedding_and_capped_logits_are_heeded(tmp_path: Path) -> None:
    """A network that multiplies looked-up rows by 8, and one whose logits are scaled down, weigh errors so."""
    import json

    windows = torch.arange(2 * 128).reshape(2, 128) % 250
    context = PassContext(folder=tmp_path, scratch=tmp_path, threads=1, seed=7)
    gemma = tiny_model(tmp_path / "gemma", layout="gemma")
    look = measuring._Look(gemma, dict.fromkeys(sites_of(gemma), FORMATS), compensated=False)
    network = LayeredNetwork(gemma, windows)
    look.at_the_start(windows, network.states)
    assert look._embedding_scale == pytest.approx(64.0, rel=0.01)  # of 64 hidden: their root, squared

    plain = tiny_model(tmp_path / "hf")
    config = json.loads((plain.path / "config.json").read_text())
    (plain.path / "config.json").write_text(json.dumps({**config, "logits_scaling": 4.0}))
    scores = torch.randn(3, 5)
    logits, gain = LayeredNetwork(plain, windows).logits(scores)
    assert gain == 0.25
    assert torch.equal(logits, scores / 4)
    head = next(site for site in sites_of(plain) if site.is_head)
    scaled = measuring.measured(plain, windows, {head: FORMATS}, context)[head]
    (plain.path / "config.json").write_text(json.dumps(config))
    whole = measuring.measured(plain, windows, {head: FORMATS}, context)[head]
    assert all(scaled[form] < whole[form] for form in FORMATS)
