"""Quantize a checkpoint as well as time and size allow: the pass to use unless you know better.

``effort: fast`` rounds to the nearest codes of least-squares grids, in seconds. ``balanced`` is GPTQ with a polish
on 8192 tokens of calibration text; ``best`` takes four times the text and longer polishes. Under ``max_size`` or
``bits_per_weight`` each layer gets the bits and block that the whole can best afford: what every format of every
layer does to the predictions is measured once, to second order, on some of the text (``fast``: 256 tokens), and
the formats are then chosen together. What kernels read for a token has a price there (``read_price``), as decoding
waits for it. Under ``max_kl`` formats are the smallest whose errors add up to no more than so many nats a token.
That is a prediction for text like the one looked at: on a 135M model it was within 4 % there, and on other text up
to twice as much was measured. Measure what is deployed.

When: before ``build-genai``; the size is that of the files it will write.
Cost: on a 135M model and two recent cores 4 to 13 seconds, one minute and a quarter, and three minutes; memory of
a layer, its second moments and the states between layers.
Source: GPTQ arXiv 2210.17323; sensitivity after HAWQ-V2, arXiv 1911.03852.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from picual import fingerprint
from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel
from picual.numerics.block_sizes import Bits, Format, nbytes
from picual.passes.base import Forecast, PassContext
from picual.passes.export import sizes
from picual.passes.quantize.base import EMBEDDING_BITS, WIDTHS, Quantizer
from picual.passes.quantize.calibration import windows_of
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.kept_costs import KeptCosts
from picual.passes.quantize.kinds import by_weights_alone
from picual.passes.quantize.measuring import Costs, measured
from picual.passes.quantize.sites import Site, bytes_of, overridden
from picual.passes.quantize.solving import Solution, best_within, least_cost, smallest_within
from picual.passes.quantize.work import Work, layer_by_layer, nearest, weight_by_weight
from picual.space import Choice, param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded

HEAD_BLOCKS, BODY_BLOCKS = (32, 64), (32, 64, 128)  # among which a budget chooses
SLACK = 20_000  # bytes of the graph's file that names and versions may take more than forecast


@dataclass(frozen=True)
class Effort:
    """What an effort does."""

    tokens: int  # of text that weights are rounded on; 0: none
    sweeps: int  # of the polish
    looked_at: int  # tokens that say what each layer can bear, where formats are chosen


EFFORTS = {"fast": Effort(0, 0, 256), "balanced": Effort(8192, 2, 2048), "best": Effort(32768, 4, 4096)}


@dataclass(frozen=True, kw_only=True)
class Quantize(Quantizer):
    """Quantize a checkpoint by effort, under a size if one is given."""

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 2
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "transformers", "accelerate")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy", "transformers")
    target_matters: ClassVar[bool] = True  # what is read has a price on a CPU alone

    effort: Literal["fast", "balanced", "best"] = param(
        "balanced", help="fast: seconds; balanced: minutes; best: longer.",
        search=Choice(("balanced", "fast")),
    )  # fmt: skip
    max_size: int | None = param(
        None, help="Largest size of the exported ONNX files; bits and blocks are chosen for it.", unit="byte"
    )
    bits_per_weight: float | None = param(
        None, help="The same as a mean over the quantized weights, scales and zero points included.", unit="bit"
    )
    read_price: float = param(
        3.6, help="Percent of divergence that a percent less to read for a token is worth, where a size is given: "
        "decoding waits for what kernels read, and wide blocks and few bits are read faster; 0: quality alone.",
    )  # fmt: skip
    max_kl: float | None = param(
        None, help="Largest divergence from the float model as predicted; the smallest formats that keep it are"
        " chosen.", unit="nat",
    )  # fmt: skip
    data: str | None = param(
        None, help="Data set to calibrate on; left out, a few pages of built-in text.", role="data"
    )

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse what every quantizer refuses, and sizes that no choice of formats can reach."""
        super().check(model, target)
        self._check_kl(model)
        budget = self._budget(model)
        if budget is None:
            return
        smallest = sum(min(bytes_of(site, form) for form in forms) for site, forms in self._all(model).items())
        if smallest > budget:
            over = smallest - budget
            hint = f"set `max_size: {-(-(over + (self.max_size or 0)) // 100_000) / 10:.1f}MB`"
            if self.max_size is None:
                weights = sum(site.weights for site in self._all(model))
                hint = f"set `bits_per_weight: {-(-80 * smallest // weights) / 10:.1f}`"
            raise Refused(
                f"the smallest formats are {over / 1e6:.1f} MB too large for the asked size",
                where=str(model.path),
                hint=hint,
            )

    def _check_kl(self, model: HfModel) -> None:
        if self.max_kl is not None and self.max_kl <= 0:
            raise Refused(
                "no integers are as near as `max_kl: 0`", where=str(model.path), hint="set `max_kl: 0.05`"
            )

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Choose formats, then round."""
        windows = self._windows(model, context)
        formats = self._chosen(model, windows, context)
        if windows is None or not EFFORTS[self.effort].tokens:
            return weight_by_weight(Work(model, formats, self.name, self, context), nearest)
        work = Work(model, formats, self.name, (self, windows.tolist()), context)
        return layer_by_layer(work, windows, self._rounded)

    def _windows(self, model: HfModel, context: PassContext) -> torch.Tensor | None:
        """Return the text that is looked at; None where none is needed, or `fast` has too little."""
        effort = EFFORTS[self.effort]
        if not effort.tokens and not self._chooses():
            return None
        config = context.data[self.data] if self.data else None
        try:
            return windows_of(model, config, effort.tokens or effort.looked_at, context)
        except Refused as error:
            if effort.tokens:
                raise
            context.noted(f"no text was looked at: {error.what}")
            return None

    def _chooses(self) -> bool:
        """Say whether formats are chosen, and not just as the fields say."""
        return any(limit is not None for limit in (self.max_size, self.bits_per_weight, self.max_kl))

    def _rounded(self, weight: torch.Tensor, moments: torch.Tensor, form: Format) -> Rounded:
        from picual.numerics import rounding

        return rounding.with_moments(
            weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric,
            sweeps=EFFORTS[self.effort].sweeps,
        )  # fmt: skip

    def outlook(self, model: HfModel, target: Target) -> dict[Site, Format]:
        """Return the formats before any text is looked at, for a look at sizes."""
        if self.max_kl is not None:
            raise Refused(
                "how small `max_kl` lets the weights be is known once text was looked at",
                where=str(model.path),
                hint="leave out `--dry-run`, or give `--max-size`",
            )
        return self._chosen(model, None, PassContext(folder=model.path, scratch=model.path, target=target))

    def _chosen(self, model: HfModel, windows: torch.Tensor | None, context: PassContext) -> dict[Site, Format]:
        """Return the format of each site: as the fields say, or as the limits allow."""
        if not self._chooses():
            return self.formats(model)
        candidates, budget = self._all(model), self._budget(model)
        costs = None if windows is None else self._measured(model, windows, candidates, context)
        if costs is None:
            if budget is None or self.max_kl is not None:
                raise Refused(
                    "no divergence is predicted without text, nor for a network that no layer of can be run alone",
                    where=str(model.path),
                    hint="give `max_size` instead of `max_kl`",
                )
            return self._solved(candidates, by_weights_alone(model, candidates, context), budget, context).formats
        for site in candidates.keys() - costs.keys():
            context.skipped(str(site), "no choice of formats: the network does not use it")
            candidates[site] = [self.formats(model)[site]]
        if self.max_kl is not None:
            return self._smallest(candidates, costs, budget, context)
        assert budget is not None
        found = self._solved(candidates, costs, budget, context)
        context.metrics["predicted_kl"] = found.cost
        return found.formats

    def _measured(
        self, model: HfModel, windows: torch.Tensor, candidates: Mapping[Site, list[Format]], context: PassContext
    ) -> Costs | None:
        """Return what each format costs; None where that cannot be measured and is not needed for the rounding."""
        effort = EFFORTS[self.effort]
        count = max(1, effort.looked_at // windows.shape[1])
        looked_at = windows[:: max(1, len(windows) // count)][:count, : effort.looked_at]
        kept = KeptCosts(context.scratch, fingerprint.digest([repr(self), looked_at.tolist()]))
        costs = kept.read(candidates)
        if costs is not None:
            return costs
        try:
            costs = measured(model, looked_at, candidates, context, compensated=effort.tokens > 0)
        except Refused as error:
            if effort.tokens:
                raise
            context.noted(f"formats were chosen by the weights alone: {error.what}")
            return None
        kept.write(costs)
        return costs

    def _smallest(
        self, candidates: Mapping[Site, list[Format]], costs: Costs, budget: int | None, context: PassContext
    ) -> dict[Site, Format]:
        """Return the smallest formats that are predicted to keep the divergence."""
        assert self.max_kl is not None
        found = smallest_within(candidates, costs, self.max_kl)
        if budget is not None and (found is None or found.size > budget):
            found = best_within(candidates, costs, budget)
        if found is None or found.cost > self.max_kl:
            least = least_cost(candidates, costs) if found is None else found.cost
            within = "" if found is None else " in the asked size"
            raise Refused(
                f"the best formats{within} are predicted {least:.2g} nats from the float model,"
                f" and `max_kl` is {self.max_kl:g}",
                hint=f"set `max_kl: {_rounded_up(least):g}`",
            )
        context.metrics["predicted_kl"] = found.cost
        return found.formats

    def _solved(
        self, candidates: Mapping[Site, list[Format]], costs: Costs, budget: int, context: PassContext
    ) -> Solution:
        """Return the formats of least cost within the limits."""
        price = self.read_price if context.target.device == "cpu" else 0.0  # other kernels pack otherwise
        found = best_within(candidates, costs, budget, price)
        assert found is not None  # check() saw that the smallest fit
        context.metrics["read_mb"] = found.read / 1e6
        return found

    def _budget(self, model: HfModel) -> int | None:
        """Return the bytes that the quantized weights may take, or None when there is no limit."""
        limits = []
        if self.max_size is not None:
            rest = sizes.kept_bytes(dataclasses.replace(model.profile(), quantized=0))
            limits.append(self.max_size - rest - SLACK)
        if self.bits_per_weight is not None:
            limits.append(int(self.bits_per_weight / 8 * sum(site.weights for site in self._all(model))))
        return min(limits, default=None)

    def _all(self, model: HfModel) -> dict[Site, list[Format]]:
        """Return the formats that each site may take, overridden ones fixed."""
        return {site: self._of_site(site, form) for site, form in self.formats(model).items()}

    def _of_site(self, site: Site, form: Format) -> list[Format]:
        if overridden(site, form, self.overrides) != self._format(site):
            return [form]
        widths: tuple[Bits, ...] = (4, 8)
        if site.layer is None and (self.head is not None or not site.is_head):
            widths = (form.bits,)
        blocks = HEAD_BLOCKS if site.layer is None else BODY_BLOCKS
        return [
            Format(bits=bits, block=block, symmetric=self.symmetric)
            for bits in widths
            for block in _fitting(site.width, blocks, form.block)
        ]

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what its way of rounding takes."""
        effort = EFFORTS[self.effort]
        if not effort.tokens and not self._chooses():
            return super().forecast(profile, target, machine, rows)
        as_gptq = Gptq(tokens=effort.tokens or effort.looked_at, bits=self.bits, block=self.block, head=self.head)
        found = as_gptq.forecast(profile, target, machine, rows)
        return dataclasses.replace(found, disk=self.profile_after(profile).bytes)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes of the quantized checkpoint; under a limit that limit, or the least there is."""
        plain = super().profile_after(profile)
        limits, slack = [], 0
        if self.max_size is not None:
            slack = SLACK
            limits.append(self.max_size - sizes.kept_bytes(dataclasses.replace(profile, quantized=0)) - slack)
        if self.bits_per_weight is not None:
            weights = profile.linear + profile.embedding * (1 if profile.tied else 2)
            limits.append(int(self.bits_per_weight / 8 * weights))
        if not limits:
            return plain
        quantized = max(min(limits), self._least(profile)) + slack
        return dataclasses.replace(plain, quantized=quantized, bytes=quantized + 4 * profile.other)

    def _least(self, profile: Profile) -> int:
        """Return the bytes of the smallest formats; 0 where overrides may make them smaller."""
        if self.overrides:
            return 0

        def body(height: int, width: int) -> int:
            return self._smallest_of(height, width, 4, BODY_BLOCKS, self.block)

        def table(bits: Bits) -> int:
            return self._smallest_of(profile.vocabulary, profile.hidden, bits, HEAD_BLOCKS, self.head_block)

        tables = table(4 if self.head is None else WIDTHS[self.head])
        return sizes.linear_bytes(profile, body) + tables + (0 if profile.tied else table(EMBEDDING_BITS))

    def _smallest_of(self, height: int, width: int, bits: Bits, blocks: tuple[int, ...], other: int) -> int:
        fitting = _fitting(width, blocks, other)
        return min(nbytes(height, width, bits=bits, block=block, symmetric=self.symmetric) for block in fitting)


def _fitting(width: int, blocks: tuple[int, ...], other: int) -> list[int]:
    """Return the blocks that a width is a multiple of, or the one that is taken where none is."""
    return [block for block in blocks if width % block == 0] or [other]


def _rounded_up(number: float) -> float:
    """Return the next number of two digits."""
    step = 10.0 ** (math.floor(math.log10(max(number, 1e-9))) - 1)
    return math.ceil(number / step * (1 + 1e-9)) * step
