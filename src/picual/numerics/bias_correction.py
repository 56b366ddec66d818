"""What rounding a weight adds to a layer's mean output, to be taken off again by its bias.

With y = W x and y^ = W^ x, the mean of y - y^ is (W - W^) E[x]: added to the bias, outputs are right on average.
The kernel adds a bias anyway, so it costs nothing at run time. Of E|y - y^|^2 it takes |(W - W^) E[x]|^2 away.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
section 4.2.
"""

from __future__ import annotations

import torch


def correction(weight: torch.Tensor, rounded: torch.Tensor, mean_input: torch.Tensor) -> torch.Tensor:
    """Return what to add to the bias (N,), float32.

    Args:
        weight: W (N, K).
        rounded: W^ (N, K).
        mean_input: E[x] (K,), of the calibration data.
    """
    return (weight.float() - rounded.float()) @ mean_input.float()
