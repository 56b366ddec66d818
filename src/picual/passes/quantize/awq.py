"""AWQ: scale what calibration text makes large before it is rounded, and scale back where it comes from.

Q(W diag(c)) diag(1/c) x: 1/c goes into the norm before query, key and value and before gate and up, into the rows
of ``up_proj`` before ``down_proj``, and of ``v_proj`` before ``o_proj`` where as many heads write as read. Scales
are searched layer by layer, on what the quantized layers before leave; then each row is rounded to the nearest
codes of a cut grid, or as GPTQ does it where that leaves the smaller output error.

When: few inputs are much larger than the rest, blocks are wide, or bits are few; else ``gptq`` comes as close in
less time. Llama, Mistral, Phi-3, Qwen2, Qwen3, SmolLM3 and Gemma networks.
Cost: what ``gptq`` costs, and once or twice as much for the search.
Source: Lin et al., arXiv 2306.00978; AutoAWQ (scales that the sizes of weights enter).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel
from picual.models.links import ADDED_TO_NORMS, Link, links_of
from picual.numerics.block_sizes import Format
from picual.passes.base import Forecast, PassContext, Promise, PromptContractKept, WeightsScaled
from picual.passes.quantize.base import Quantizer
from picual.passes.quantize.calibration import windows_of
from picual.passes.quantize.folding import fold
from picual.passes.quantize.gptq import FLOPS, Gptq
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.shards import Shard
from picual.passes.quantize.work import RoundedLayer, Work, group_by_group, layers_in_turn
from picual.space import param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded

UNCUT = ("q_proj", "k_proj", "qkv_proj")  # their outputs meet in products, where few large ones decide
ENOUGH_BITS = 8  # with so many, scales gain nothing


@dataclass(frozen=True, kw_only=True)
class Awq(Quantizer):
    """Quantize a checkpoint by AWQ on calibration text."""

    name: ClassVar[str] = "awq"
    version: ClassVar[int] = 2
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "transformers", "accelerate")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy", "transformers")

    data: str | None = param(
        None, help="Data set to calibrate on; left out, a few pages of built-in text.", role="data"
    )
    tokens: int = param(8192, help="Tokens of calibration text.", unit="token")
    ratios: int = param(20, help="Exponents from 0 to 1 that are tried for the scales.")
    duo_scaling: bool = param(True, help="Try scales that the sizes of weights enter, too.")
    clip: bool = param(True, help="Try to cut the range of each block; never that of queries and keys.")
    compensate: bool = param(True, help="Round a row as GPTQ does where that leaves a smaller output error.")
    damping: float = param(0.01, help="Share of the mean of the second moments added to them, for GPTQ.")
    sweeps: int = param(2, help="Rounds of the polish after GPTQ.")

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse what every quantizer refuses, and networks whose norms are not known."""
        super().check(model, target)
        if not links_of(model.tensors(), model.config()):
            known = ", ".join(f"`{kind}`" for kind in ADDED_TO_NORMS)
            raise Refused(
                f"what writes the inputs of a `{model.config().get('model_type')}` network's layers is not known, "
                "so no scale can be moved there",
                where=str(model.path),
                hint=f"use `gptq`; `awq` knows {known}",
            )

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Scale and round layer by layer."""
        windows = windows_of(model, context.data[self.data] if self.data else None, self.tokens, context)
        work = Work(model, self.formats(model), self.name, (self, windows.tolist()), context)
        links = self._links(work)

        def of_layer(layer: Layer, shard: Shard, states: torch.Tensor) -> RoundedLayer:
            mine = [link for link in links if link.readers[0] in shard.quantized]
            norms = fold(layer, states, mine, lambda link, *seen: self._scales(work, layer, link, *seen))
            if norms is None:
                context.skipped(shard.file, "scales moved into what writes its inputs change what it computes")
            return RoundedLayer(group_by_group(work, layer, shard, states, self._rounded), norms or {})

        return layers_in_turn(work, windows, of_layer, self._of_head)

    def _of_head(self, weight: torch.Tensor, moments: torch.Tensor, form: Format) -> Rounded:
        from picual.numerics import rounding

        return rounding.with_moments(
            weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric, damping=self.damping,
            sweeps=self.sweeps, compensate=self.compensate,
        )  # fmt: skip

    def promises(self) -> tuple[Promise, ...]:
        """Return: weights are close to their sources but for scales that are undone, and the prompt contract."""
        return (WeightsScaled(), PromptContractKept())

    def _links(self, work: Work) -> list[Link]:
        """Return where scales may move, and say where not."""
        found = links_of(work.model.tensors(), work.model.config())
        read = {name for link in found for name in link.readers}
        for site, form in work.formats.items():
            if site.layer is not None and form.bits < ENOUGH_BITS and site.names[0] not in read:
                work.context.skipped(str(site), f"not scaled: {_why_not(site.names[0])}")
        return [link for link in found if work.form_of(link.readers[0]).bits < ENOUGH_BITS]

    def _scales(
        self, work: Work, layer: Layer, link: Link, moments: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        from picual.numerics import awq

        form = work.form_of(link.readers[0])
        return awq.search_scales(
            [layer.weight(name) for name in link.readers], sizes, moments,
            bits=form.bits, block=form.block, symmetric=form.symmetric,
            ratios=[step / self.ratios for step in range(self.ratios)], duo=self.duo_scaling,
        )  # fmt: skip

    def _rounded(
        self,
        names: Sequence[str],
        heights: Sequence[int],
        weight: torch.Tensor,
        moments: torch.Tensor,
        form: Format,
    ) -> Rounded:
        import torch

        from picual.numerics import awq

        cuts = [self.clip and name.split(".")[-2] not in UNCUT for name in names]
        return awq.rounded(
            weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric,
            cut=torch.tensor(cuts).repeat_interleave(torch.tensor(heights)), compensate=self.compensate,
            damping=self.damping, sweeps=self.sweeps,
        )  # fmt: skip

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what GPTQ takes, and the search besides."""
        as_gptq = Gptq(tokens=self.tokens, bits=self.bits, block=self.block, head=self.head)
        plain = as_gptq.forecast(profile, target, machine, rows)
        tries = self.ratios * (2 if self.duo_scaling else 1)
        seconds = plain.seconds + 2 * tries * profile.linear * profile.intermediate / FLOPS
        return dataclasses.replace(plain, seconds=seconds)


def _why_not(name: str) -> str:
    """Say why nothing is known that could be divided before a weight."""
    if name.endswith("o_proj.weight"):
        return "several query heads share the rows of `v_proj`, or a bias is added to them"
    return "what writes its inputs is not known, or a bias is added to it"
