"""Olive's sizes of groups as ours."""

from __future__ import annotations

import math

BLOCKS = (16, 32, 64, 128, 256)


def block_of(size: int) -> tuple[int, str]:
    """Return the block nearest to a group, and what to say of it when it is another."""
    if size in BLOCKS:
        return size, ""
    if size <= 0:
        whole = "channel" if size == -1 else "matrix"
        return BLOCKS[-1], f"blocks of {BLOCKS[-1]} weights share a scale, the widest there are (Olive: a {whole})"
    nearest = min(BLOCKS, key=lambda block: abs(math.log(block) - math.log(size)))
    return nearest, f"blocks have {nearest} weights, the nearest to {size} that kernels take"
