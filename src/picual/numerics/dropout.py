"""Masks for dropout: which elements stay, each with probability 1 - p.

torch draws one number after the other, on one core, 7 ns each; here 16 random bits decide for an element, a
quarter of a 64-bit number. The share that stays is off by at most 2^-17.

Source: Srivastava et al., "Dropout", JMLR 15 (2014); the generator: PCG64 DXSM, O'Neill,
HMC-CS-2014-0905.
"""

from __future__ import annotations

import math

import numpy as np
import torch

LEVELS = 1 << 16


def kept(shape: tuple[int, ...], p: float) -> torch.Tensor:
    """Return a mask (bool) of elements that stay, from one draw of torch's own generator.

    So a training that goes on from a saved state of torch's generator meets the same masks.

    Args:
        shape: Of the mask.
        p: Probability of an element to be left out, in [0, 1).
    """
    seed = int(torch.randint(2**62, ()))
    count = math.prod(shape)
    words = np.random.PCG64DXSM(seed).random_raw(-(-count // 4))
    left_out = round(p * LEVELS)
    return torch.from_numpy(words.view(np.uint16)[:count] >= left_out).view(shape)
