"""The head heeds its inputs, and rows that are looked up too are not given up for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from picual.models import QuantizedHfModel
from picual.models.quantized_weights import open_weight
from picual.numerics import rounding
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize import head
from picual.passes.quantize.calibration import windows_of
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.network import LayeredNetwork
from picual.testing.tiny import tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]
FORM = Format(bits=4, block=32, symmetric=False)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and inputs of which a few are large at every token, as those of a head are."""
    torch.manual_seed(0)
    inputs = torch.randn(2000, 64)
    inputs[:, ::20] = inputs[:, ::20] * 2 + 20
    return torch.randn(700, 64) * 0.1, inputs.T @ inputs / len(inputs)


def by_gptq(weight: torch.Tensor, moments: torch.Tensor, form: Format) -> rounding.Rounded:
    return rounding.with_moments(weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric)


def errors(weight: torch.Tensor, moments: torch.Tensor, made: rounding.Rounded) -> tuple[float, float]:
    """Of what is multiplied, and of what is looked up."""
    error = made.values() - weight
    return float(torch.einsum("nk,nk->", error @ moments, error)), float(error.square().sum())


def test_logits_change_far_less_and_rows_not_much_more() -> None:
    weight, moments = problem()
    nearest = errors(weight, moments, rounding.nearest(weight, bits=4, block=32, symmetric=False))
    alone = errors(weight, moments, head.rounded(weight, moments, FORM, by_gptq, looked_up=False))
    both = errors(weight, moments, head.rounded(weight, moments, FORM, by_gptq, looked_up=True))
    assert alone[0] < 0.3 * nearest[0]
    assert both[0] < 0.3 * nearest[0]
    assert both[1] < 1.2 * nearest[1] < alone[1]


def test_stretches_of_rows_are_rounded_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moments = problem()
    whole = head.rounded(weight, moments, FORM, by_gptq, looked_up=True)
    monkeypatch.setattr(head, "PIECE", 300 * 64)
    pieces = head.rounded(weight, moments, FORM, by_gptq, looked_up=True)
    assert pieces.values().shape == weight.shape
    assert (pieces.codes != whole.codes).float().mean() < 1e-3  # sums may be taken in another order


@pytest.mark.parametrize("tied", [True, False])
def test_head_of_a_checkpoint_is_rounded_on_the_last_states(tmp_path: Path, run: Run, tied: bool) -> None:
    from safetensors.numpy import load_file, save_file

    model = tiny_model(tmp_path / "hf", tied=tied)
    weights = load_file(model.path / "model.safetensors")
    weights["model.norm.weight"][::20] *= 20
    save_file(weights, model.path / "model.safetensors", metadata={"format": "pt"})
    made, context = run(Gptq(tokens=1024, head="int4", head_block=32), model)
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"

    network = LayeredNetwork(model, windows_of(model, None, 1024, context))
    states = network.states
    with torch.no_grad():
        for number in range(len(network)):
            with network.layer(number) as layer:
                states = layer.forward(states)
        moments = head.moments_of(network, states)
    weight = torch.from_numpy(weights[name])
    nearest = rounding.nearest(weight, bits=4, block=32, symmetric=False).values()
    found = torch.from_numpy(open_weight(made, name).rows(0, 320))

    def of_logits(values: torch.Tensor) -> float:
        return float(torch.einsum("nk,nk->", (values - weight) @ moments, values - weight))

    assert of_logits(found) < 0.7 * of_logits(nearest)


def test_fields_of_the_pass_reach_the_head(tmp_path: Path, run: Run) -> None:
    model = tiny_model(tmp_path / "hf")
    passes = {order: Gptq(tokens=1024, head="int4", order=order, sweeps=0) for order in ("activation", "given")}
    found = [
        open_weight(run(a_pass, model, name=order)[0], "model.embed_tokens.weight").rows(0, 320)
        for order, a_pass in passes.items()
    ]
    assert (found[0] != found[1]).any()
