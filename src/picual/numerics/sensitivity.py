"""What storing a layer in fewer bits does to the model's predictions, to second order.

With y = W x the outputs of a linear layer and g the gradient of the log-likelihood of an answer drawn from the
model itself, the Fisher information of y is E[g g^T]; an error D of the weight raises the KL of the predictions
by about 1/2 E[(g . D x)^2] a token. Taking g and x as independent and only the diagonal of E[g g^T], that is
1/2 sum_n E[g_n^2] (D H D^T)_nn.

Kernels that round activations to int8, in blocks that share the scale s = max|x| / 127, add errors of variance
s^2 / 12 to each input: 1/2 sum_n E[g_n^2] sum_k W_nk^2 E[s^2] / 12.
Source: Dong et al., "HAWQ-V2", arXiv 1911.03852 (second order); Fisher: Li et al., "BRECQ", arXiv 2102.05426.
"""

from __future__ import annotations

import torch

LEVELS = 127  # of a rounded activation, to each side


class Inputs:
    """What is remembered of a layer's inputs: second moments, and mean squared int8 steps by block size."""

    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        self._moments = torch.zeros(width, width)
        self._steps = {block: torch.zeros(-(-width // block)) for block in blocks}
        self._count = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Take inputs (..., K) in."""
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        self._moments.addmm_(flat.T, flat)
        for block, total in self._steps.items():
            spare = -flat.shape[1] % block
            cut = torch.nn.functional.pad(flat, (0, spare)) if spare else flat
            total.add_((cut.unflatten(1, (-1, block)).abs().amax(2) / LEVELS).square_().sum(0))
        self._count += len(flat)

    def moments(self) -> torch.Tensor:
        """Return H (K, K)."""
        return self._moments / max(self._count, 1)

    def squared_steps(self, block: int) -> torch.Tensor:
        """Return E[s^2] of the rounding of each input (K,), when ``block`` of them share a scale."""
        mean = self._steps[block] / max(self._count, 1)
        return mean.repeat_interleave(block)[: len(self._moments)]


def of_weights(error: torch.Tensor, moments: torch.Tensor, gradients: torch.Tensor) -> float:
    """Return the KL in nats a token that an error (N, K) of the weight brings.

    Args:
        error: W^ - W.
        moments: H (K, K) of the inputs.
        gradients: E[g^2] (N,) of the outputs.
    """
    by_row = ((error @ moments) * error).sum(1)
    return float(0.5 * (gradients * by_row).sum())


def of_activations(weight: torch.Tensor, squared_steps: torch.Tensor, gradients: torch.Tensor) -> float:
    """Return the KL in nats a token that rounding the inputs to int8 brings.

    Args:
        weight: (N, K).
        squared_steps: E[s^2] (K,).
        gradients: E[g^2] (N,) of the outputs.
    """
    by_column = gradients @ weight.square()
    return float(0.5 * (by_column * squared_steps).sum() / 12)
