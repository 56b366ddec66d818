"""Round every weight to the nearest of 2^bits levels of its block.

With ``search`` each block takes, of whole zero points and scales tried, the pair of least squared error; without,
the narrowest grid that covers its range, as most tools do.

When: no calibration data, or seconds to spend. ``gptq`` and ``quantize`` keep more of the model.
Cost: seconds for 100 million weights; the memory of one weight. No data, no accelerator.
Source: Jacob et al., arXiv 1712.05877; the search: ``numerics.zero_points``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from picual.models import HfModel, QuantizedHfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext, Promise, PromptContractKept, WeightsQuantized
from picual.passes.quantize.base import Quantizer
from picual.passes.quantize.work import Work, weight_by_weight
from picual.space import param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded


@dataclass(frozen=True, kw_only=True)
class Rtn(Quantizer):
    """Round a checkpoint's weights to nearest, without data."""

    name: ClassVar[str] = "rtn"
    version: ClassVar[int] = 1

    search: bool = param(True, help="Try zero points and scales for the least squared error of each block.")

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Round weight by weight."""
        work = Work(model, self.formats(model), self.name, self, context)
        return weight_by_weight(work, self._rounded)

    def promises(self) -> tuple[Promise, ...]:
        """Return: as of every quantizer, and without a search no weight moves more than half a step."""
        return (WeightsQuantized(nearest=not self.search), PromptContractKept())

    def _rounded(self, weight: torch.Tensor, form: Format) -> Rounded:
        from picual.numerics import rounding

        return rounding.nearest(
            weight, bits=form.bits, block=form.block, symmetric=form.symmetric, search=self.search
        )
