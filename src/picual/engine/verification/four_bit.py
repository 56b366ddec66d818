"""What 4 bits leave of a weight, computed here from the formula and not by the library that held it.

A weight is cut along its rows into blocks of 64; the largest of a block, s, is its scale. Each w becomes c s for
the nearest c of 16. With double quantization the scales that are multiplied are those that 8 bits leave of them;
these alone are the library's own.
Source: Dettmers et al., "QLoRA", arXiv 2305.14314, section 3 and appendix E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors as stored
from picual.models.safetensors_file import TensorInfo, read_header
from picual.models.trained_on import FourBit

if TYPE_CHECKING:
    import torch

# Of the 4-bit float: one bit of sign, two of exponent, one of mantissa, divided by the largest.
FP4 = tuple(number / 12 for number in (0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0))
VALUES = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "fp4": (*(-value for value in reversed(FP4)), 0.0, *FP4),
}  # fmt: skip
BLOCKS = 1 << 14  # at once
SCALES_BLOCK = 256
# Of the largest of a block: so near to the middle between two values, what float32 rounds decides which it is.
NEARLY = 1e-6


class Held:
    """One weight as 4 bits left it.

    Attributes:
        values: (N, K) float32.
        others: (N, K) float32: the second nearest where it is as near, the nearest elsewhere.
    """

    def __init__(self, weight: TensorInfo, how: FourBit) -> None:
        import torch

        flat = _without_what_was_taken_off(weight, how).reshape(-1)
        filled = torch.nn.functional.pad(flat, (0, -len(flat) % how.block)).reshape(-1, how.block)
        scales = filled.abs().amax(dim=1)  # (blocks,)
        kept = _after_eight_bits(scales) if how.double_quant else scales
        values, others = torch.empty_like(filled), torch.empty_like(filled)
        for at in range(0, len(filled), BLOCKS):
            some = slice(at, at + BLOCKS)
            nearest, second = _nearest(filled[some], scales[some], VALUES[how.format])
            values[some], others[some] = nearest * kept[some, None], second * kept[some, None]
        self.values, self.others = (
            found.reshape(-1)[: len(flat)].reshape(weight.shape) for found in (values, others)
        )

    def explaining(self, found: Any, rows: slice) -> torch.Tensor:
        """Return rows of the weight, each number the one of two equally near that ``found`` is nearer to."""
        import torch

        nearest, second = self.values[rows].double(), self.others[rows].double()
        return torch.where((found - second).abs() < (found - nearest).abs(), second, nearest)


def _without_what_was_taken_off(weight: TensorInfo, how: FourBit) -> torch.Tensor:
    """Return what was held of a weight (N, K), float32: W, or W - B A where the adapter's folder has these."""
    found = stored.read(weight.file, weight.name)
    factors = {} if how.taken_off is None else read_header(how.taken_off)
    if f"{weight.name}.b" not in factors:
        return found.float()
    b, a = (stored.weight_of(factors, f"{weight.name}.{one}").double() for one in ("b", "a"))
    return (found.double() - b @ a).float()


def _nearest(
    blocks: torch.Tensor, scales: torch.Tensor, values: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each weight (blocks, 64) the nearest value, and the second where that is as near, float32."""
    import torch

    table = torch.tensor(values, dtype=torch.float64)
    middles = (table[1:] + table[:-1]) / 2
    scaled = blocks.double() / scales.double().clamp_min(1e-38)[:, None]
    index = torch.bucketize(scaled, middles)
    below = scaled - middles[(index - 1).clamp_min(0)]
    above = middles[index.clamp_max(len(middles) - 1)] - scaled
    second = torch.where((index > 0) & (below.abs() < NEARLY), index - 1, index)
    second = torch.where((index < len(middles)) & (above.abs() < NEARLY), index + 1, second)
    return table[index].float(), table[second].float()


def _after_eight_bits(scales: torch.Tensor) -> torch.Tensor:
    """Return what the library's 8 bits leave of the scales (blocks,), which it takes off their mean."""
    import bitsandbytes.functional as library
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of a sum depends on how many there are
    mean = scales.mean()
    torch.set_num_threads(threads)
    codes, state = library.quantize_blockwise(scales - mean, blocksize=SCALES_BLOCK)
    found: torch.Tensor = library.dequantize_blockwise(codes, state) + mean
    return found
