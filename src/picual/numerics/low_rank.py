"""The updates of stacked matrices as one pair of factors.

W: (N, K), the parts W_1 .. W_n one above the other · A_i: (r_i, K) · B_i: (N_i, r_i) · R: sum of the r_i.

    x W'^T = x W^T + (x A^T) B^T        A^T: (K, R), side by side;  B^T: (R, N), block by block on the diagonal

Parts without an update have zeros in B^T. Scales go into B^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Update:
    """What is added to some rows of a stack.

    Attributes:
        a: (r, K).
        b: (n, r), of these rows.
        scale: On B A.
        start: First row of the stack.
    """

    a: Floats
    b: Floats
    scale: float
    start: int


def stacked(updates: Sequence[Sequence[Update]], height: int) -> tuple[Floats, Floats]:
    """Return A^T (K, R) and B^T (R, N), scales in B^T.

    Args:
        updates: Of each A, the rows of the stack that it serves: those of one group have one A.
        height: N.
    """
    factors = [group[0].a for group in updates]
    first = np.concatenate([a.T for a in factors], axis=1)  # (K, R)
    second = np.zeros((first.shape[1], height), np.float32)
    at = 0
    for group, a in zip(updates, factors, strict=True):
        rows = slice(at, at + len(a))
        for one in group:
            second[rows, one.start : one.start + len(one.b)] = np.float32(one.scale) * one.b.T
        at += len(a)
    return np.ascontiguousarray(first), second
