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


def dequantized(weight: torch.Tensor, how: FourBit, name: str = "") -> torch.Tensor:
    """Return what is left of a weight (N, K) after 4 bits, float32."""
    packed, state = quantized(weight, how, name)
    found: torch.Tensor = library().functional.dequantize_4bit(packed, state)
    return found


def quantized(weight: torch.Tensor, how: FourBit, name: str = "") -> tuple[torch.Tensor, Any]:
    """Return the codes of a weight (N, K), two in a byte, and the scales as ``bitsandbytes`` keeps them.

    Args:
        weight: As the checkpoint has it.
        how: It is held.
        name: Of the weight, where something may have been taken off it before.
    """
    functional = library().functional
    given = _without_what_was_taken_off(weight, how, name)
    packed, state = functional.quantize_4bit(given, blocksize=BLOCK, quant_type=how.format)
    if not how.double_quant:
        return packed, state
    scales = state.absmax
    offset = _mean(scales)
    narrow, own = functional.quantize_blockwise(scales - offset, blocksize=SCALES_BLOCK)
    return packed, functional.QuantState(
        absmax=narrow, shape=state.shape, dtype=state.dtype, blocksize=BLOCK, code=state.code,
        quant_type=how.format, offset=offset, state2=own,
    )  # fmt: skip


def _without_what_was_taken_off(weight: torch.Tensor, how: FourBit, name: str) -> torch.Tensor:
    """Return W - B A, summed in float64: the order of a sum must not decide on a rounding."""
    from safetensors import safe_open

    if how.taken_off is None:
        return weight.float().contiguous()
    with safe_open(how.taken_off, framework="pt") as tensors:
        if f"{name}.b" not in tensors.keys():  # noqa: SIM118  # it is no mapping
            return weight.float().contiguous()
        b, a = (tensors.get_tensor(f"{name}.{one}").double().to(weight.device) for one in ("b", "a"))
    left: torch.Tensor = (weight.double() - b @ a).float()
    return left


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean as one thread sums it: several sum in an order that depends on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return values.mean()
    finally:
        torch.set_num_threads(threads)
