"""The second-order estimates against the divergence that really comes."""

from __future__ import annotations

import torch

from picual.numerics import sensitivity


def setting() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, a layer, and the head that reads it."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20_000, 8, generator=generator)
    return inputs, torch.randn(6, 8, generator=generator) * 0.4, torch.randn(10, 6, generator=generator) * 0.5


def squared_gradients(inputs: torch.Tensor, weight: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """E[g^2] of the layer's outputs, answers drawn from the model."""
    odds = torch.softmax(inputs @ weight.T @ head.T, -1)
    drawn = torch.multinomial(odds, 1, generator=torch.Generator().manual_seed(2))
    slope = odds.scatter_add(1, drawn, torch.full((len(odds), 1), -1.0)) @ head
    return slope.square().mean(0)


def divergence(inputs: torch.Tensor, weight: torch.Tensor, other: torch.Tensor, head: torch.Tensor) -> float:
    before = torch.log_softmax(inputs @ weight.T @ head.T, -1)
    after = torch.log_softmax(inputs @ other.T @ head.T, -1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_error_of_a_weight() -> None:
    inputs, weight, head = setting()
    seen = sensitivity.Inputs(8, (4,))
    seen.add(inputs)
    gradients = squared_gradients(inputs, weight, head)
    for row in range(6):
        error = torch.zeros_like(weight)
        error[row] = torch.randn(8, generator=torch.Generator().manual_seed(row)) * 0.02
        estimate = sensitivity.of_weights(error, seen.moments(), gradients)
        assert 0.6 < estimate / divergence(inputs, weight, weight + error, head) < 1.6


def test_rounded_inputs() -> None:
    inputs, weight, head = setting()
    seen = sensitivity.Inputs(8, (4,))
    for batch in inputs.split(4096):
        seen.add(batch)
    blocks = inputs.unflatten(1, (2, 4))
    step = blocks.abs().amax(2, keepdim=True) / 127
    rounded = ((blocks / step).round() * step).flatten(1)
    before = torch.log_softmax((inputs @ weight.T @ head.T).double(), -1)
    after = torch.log_softmax((rounded @ weight.T @ head.T).double(), -1)
    real = float((before.exp() * (before - after)).sum(-1).mean())
    gradients = squared_gradients(inputs, weight, head)
    estimate = sensitivity.of_activations(weight, seen.squared_steps(4), gradients)
    assert 0.5 < estimate / real < 2.0
