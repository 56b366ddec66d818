"""GPTQ: round each layer so that its outputs on calibration text change least.

Layer by layer, each on what the quantized layers before it leave: second moments of the inputs, least-squares
grids weighted by them, columns rounded one after the other with their errors made up for, then a polish of codes
and scales. Kernels need no index (``g_idx``): grids are fixed before the columns are ordered.

When: quality counts and minutes are there. ``quantize`` adds the choice of formats under a size.
Cost: two to three runs of the text through the network and about a second a million columns; the memory of one
layer and of the states between two. 8192 tokens on a 135M model: a minute and a half on two cores.
Source: Frantar et al., arXiv 2210.17323; polish: Behdin et al., arXiv 2309.01885.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import Forecast, PassContext
from picual.passes.quantize.base import LIBRARIES, Quantizer
from picual.passes.quantize.calibration import windows_of
from picual.passes.quantize.work import Work, layer_by_layer
from picual.space import param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded

FLOPS = 5e10  # a second, of two cores with wide vectors: rough


@dataclass(frozen=True, kw_only=True)
class Gptq(Quantizer):
    """Quantize a checkpoint by GPTQ on calibration text."""

    name: ClassVar[str] = "gptq"
    version: ClassVar[int] = 2
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "transformers", "accelerate")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy", "transformers")

    data: str | None = param(
        None, help="Data set to calibrate on; left out, a few pages of built-in text.", role="data"
    )
    tokens: int = param(8192, help="Tokens of calibration text.", unit="token")
    order: Literal["activation", "groups", "given"] = param(
        "activation", help="Order of the columns: by the size of their inputs, by blocks, or as they are."
    )
    damping: float = param(0.01, help="Share of the mean of the second moments added to them.")
    sweeps: int = param(2, help="Rounds of the polish after GPTQ.")

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Round layer by layer."""
        windows = windows_of(model, context.data[self.data] if self.data else None, self.tokens, context)
        work = Work(model, self.formats(model), self.name, (self, windows.tolist()), context)
        return layer_by_layer(work, windows, self._rounded)

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what a layer, its second moments and the states between layers take."""
        plain = super().forecast(profile, target, machine, rows)
        states = 8 * self.tokens * profile.hidden
        layer = 24 * profile.per_layer + 16 * profile.intermediate**2
        work = 8 * profile.linear * self.tokens + 6 * profile.linear * profile.intermediate
        return Forecast(
            memory=max(plain.memory, LIBRARIES + layer + states + 4 * profile.embedding),
            disk=plain.disk,
            seconds=15 + work / FLOPS,
        )

    def _rounded(self, weight: torch.Tensor, moments: torch.Tensor, form: Format) -> Rounded:
        from picual.numerics import rounding

        return rounding.with_moments(
            weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric, order=self.order,
            damping=self.damping, sweeps=self.sweeps,
        )  # fmt: skip
