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
from picual.passes.quantize.sites import Site, sites_of

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
