"""What 4 bits leave of a weight, by ``bitsandbytes``.

A weight is quantized in blocks of 64 along its rows: the largest of a block is its scale, each weight the nearest
of 16 values times it. It is always done on the processor and in float32, so that a training, a merge and a
measurement have the same numbers wherever they run.
Source: Dettmers et al., "QLoRA", arXiv 2305.14314.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.models.trained_on import BLOCK, FourBit

if TYPE_CHECKING:
    import torch

SCALES_BLOCK = 256  # scales that share one scale of their own, with double quantization


def hush() -> None:
    """Keep ``bitsandbytes`` from saying, when anything imports it, which kernels it could fetch from a hub."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def library() -> Any:
    """Return ``bitsandbytes``.

    Raises:
        MissingDependency: It is not installed.
    """
    hush()
    return _lazy.need("bitsandbytes", extra="qlora", by="a base held in 4 bits")


def dequantized(weight: torch.Tensor, how: FourBit) -> torch.Tensor:
    """Return what is left of a weight (N, K) after 4 bits, float32."""
    packed, state = quantized(weight, how)
    found: torch.Tensor = library().functional.dequantize_4bit(packed, state)
    return found


def quantized(weight: torch.Tensor, how: FourBit) -> tuple[torch.Tensor, Any]:
    """Return the codes of a weight (N, K), two in a byte, and the scales as ``bitsandbytes`` keeps them."""
    functional = library().functional
    packed, state = functional.quantize_4bit(weight.float().contiguous(), blocksize=BLOCK, quant_type=how.format)
    if not how.double_quant:
        return packed, state
    scales = state.absmax
    offset = _mean(scales)
    narrow, own = functional.quantize_blockwise(scales - offset, blocksize=SCALES_BLOCK)
    return packed, functional.QuantState(
        absmax=narrow, shape=state.shape, dtype=state.dtype, blocksize=BLOCK, code=state.code,
        quant_type=how.format, offset=offset, state2=own,
    )  # fmt: skip


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean as one thread sums it: several sum in an order that depends on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return values.mean()
    finally:
        torch.set_num_threads(threads)
