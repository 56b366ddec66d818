"""The second moments of a layer's inputs, from which output errors follow without the inputs.

With inputs X (T, K), H = X^T X / T. An error D (N, K) of the weight costs E|D x|^2 = tr(D H D^T).
Source: Frantar et al., "GPTQ", arXiv 2210.17323, section 3.
"""

from __future__ import annotations

import torch

DAMPING = 0.01
MOST_TRIES = 8


class Moments:
    """H of one layer, added up batch by batch."""

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width, width)
        self.count = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Take inputs (..., K) in."""
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        self._sum.addmm_(flat.T, flat)
        self.count += len(flat)

    def mean(self) -> torch.Tensor:
        """Return H (K, K)."""
        return self._sum / max(self.count, 1)


def damped(hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Return H + damping * mean(diag H) * I; an input that was always zero gets 1 on its diagonal."""
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    extra = torch.where(dead, 1.0, damping * diagonal[~dead].mean() if (~dead).any() else 1.0)
    return hessian + torch.diag(extra)


def inverse_factor(hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Return the upper triangular U with U^T U = (H + damping)^-1, the damping raised until there is one.

    Raises:
        FloatingPointError: H holds a number that is not finite.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise FloatingPointError("the second moments of the inputs are not finite")
    upper: torch.Tensor
    for _ in range(MOST_TRIES):
        lower, failed = torch.linalg.cholesky_ex(damped(hessian, damping))
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damping *= 10
    return torch.diag(damped(hessian, damping).diagonal().rsqrt())  # as if inputs were uncorrelated
