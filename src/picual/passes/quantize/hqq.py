"""HQQ: grids that a few large weights do not pull away from the many, without data.

The half-quadratic search of the paper, with zero points that stay whole, since kernels read no others fast, and
scales fitted to the codes at the end.

When: no calibration data, and 2 bits or blocks with outliers; with 4 bits ``rtn`` leaves the smaller squared error
in a tenth of the time.
Cost: about a minute for 100 million weights; the memory of one weight. No data, no accelerator.
Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from picual.models import HfModel, QuantizedHfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize.base import Quantizer
from picual.passes.quantize.work import Work, weight_by_weight
from picual.space import param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded


@dataclass(frozen=True, kw_only=True)
class Hqq(Quantizer):
    """Quantize a checkpoint by half-quadratic search, without data."""

    name: ClassVar[str] = "hqq"
    version: ClassVar[int] = 1

    iterations: int = param(20, help="Most rounds of the search for each block.")

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Round weight by weight."""
        return weight_by_weight(Work(model, self.formats(model), self.name, self, context), self._rounded)

    def _rounded(self, weight: torch.Tensor, form: Format) -> Rounded:
        from picual.numerics import hqq, rounding

        full = rounding.filled(weight, form.block)
        grid = hqq.fit(
            full, bits=form.bits, block=form.block, symmetric=form.symmetric, iterations=self.iterations
        )
        return rounding.Rounded(grid, grid.nearest(full), weight.shape[1])
