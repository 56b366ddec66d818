"""What some of the rows say of a weight is what all of them would."""

from __future__ import annotations

import pytest
import torch

from picual.numerics.block_sizes import Format
from picual.numerics.sensitivity import Inputs
from picual.passes.quantize import measuring

FORMATS = [Format(bits=4, block=32, symmetric=False), Format(bits=4, block=64, symmetric=False)]


def costs_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> dict[Format, float]:
    monkeypatch.setattr(measuring, "ROWS", rows)
    torch.manual_seed(0)
    sizes = torch.logspace(-1, 1, 1500)[:, None]  # rows of one weight differ a hundredfold
    weight, gradients = torch.randn(1500, 128) * sizes, torch.rand(1500) / sizes[:, 0]
    inputs = Inputs(128, measuring.BLOCKS)
    inputs.add(torch.randn(512, 128) * torch.linspace(0.1, 3, 128))
    return measuring._of_formats(weight, inputs, gradients, FORMATS, compensated=True)


def test_rows_that_are_looked_at_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    few, every = costs_of(256, monkeypatch), costs_of(1500, monkeypatch)
    for form in FORMATS:
        assert few[form] == pytest.approx(every[form], rel=0.05)
    assert few[FORMATS[0]] < few[FORMATS[1]]
