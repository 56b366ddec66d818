"""AutoRound: learn which way weights are rounded, so that whole layers' outputs on calibration text change least.

Every layer is quantized as ``gptq`` does it. In the layers where rounding hurts the predictions most, codes and
scales then go on from there by signed gradients of the error of the layer's output, over random windows of the
text. What comes out is kept where it is better on all of the text.

When: ``gptq`` is not close enough and minutes are there.
Cost: ``gptq``, a look at what each layer can bear, and for each learned layer ``steps`` runs of a few windows
forward and back; the memory of a layer four times over and of its output.
Source: Cheng et al., arXiv 2309.05516.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from picual import _atomic, fingerprint
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import Forecast, PassContext
from picual.passes.quantize.base import Quantizer
from picual.passes.quantize.calibration import WINDOW, windows_of
from picual.passes.quantize.gptq import FLOPS, Gptq
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.measuring import measured
from picual.passes.quantize.shards import Shard
from picual.passes.quantize.work import RoundedLayer, Work, group_by_group, layers_in_turn
from picual.space import param

if TYPE_CHECKING:
    import torch

    from picual.numerics.rounding import Rounded

ORDER_FILE = "order.json"
LOOKED_AT = 2  # windows that say which layers are learned
# Over steps. A tenth of what rounding to nearest wants: it left 0.66 to 0.81 of GPTQ's error in two layers of a
# 135M model, and 0.83 to 0.89 on other text. Ten times the rates undo GPTQ at the first step and do not come back.
LR, MINMAX_LR = 0.1, 0.02
ENOUGH_BITS = 8  # with so many, nothing is left to learn


@dataclass(frozen=True, kw_only=True)
class AutoRound(Quantizer):
    """Quantize a checkpoint by GPTQ, and learn the rounding of the most sensitive layers."""

    name: ClassVar[str] = "autoround"
    version: ClassVar[int] = 2
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "transformers", "accelerate")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy", "transformers")

    data: str | None = param(
        None, help="Data set to calibrate on; left out, a few pages of built-in text.", role="data"
    )
    tokens: int = param(8192, help="Tokens of calibration text.", unit="token")
    share: float = param(
        0.25, help="Share of the layers that are learned, the most sensitive ones; the rest: GPTQ."
    )
    steps: int = param(50, help="Steps of the descent in each learned layer.")
    batch_size: int = param(1, help="Windows of text in a step.", unit="window")
    lr: float | None = param(None, help="Rate of the first step of the rounding; left out, 0.1 / steps.")
    minmax_lr: float | None = param(None, help="Rate of the first step of the scales; left out, 0.02 / steps.")

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        """Round layer by layer, learning where it pays."""
        windows = windows_of(model, context.data[self.data] if self.data else None, self.tokens, context)
        work = Work(model, self.formats(model), self.name, (self, windows.tolist(), context.seed), context)
        learned = self._most_sensitive(work, windows)

        def of_layer(layer: Layer, shard: Shard, states: torch.Tensor) -> RoundedLayer:
            number = int(shard.file.removeprefix("layer-").removesuffix(".safetensors"))
            if number in learned:
                return RoundedLayer(self._learned(work, layer, shard, states, number))
            return RoundedLayer(group_by_group(work, layer, shard, states, _as_gptq))

        return layers_in_turn(work, windows, of_layer, lambda *given: _as_gptq((), (), *given))

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what GPTQ takes, and the descents besides."""
        as_gptq = Gptq(tokens=self.tokens, bits=self.bits, block=self.block, head=self.head)
        plain = as_gptq.forecast(profile, target, machine, rows)
        tokens = self.steps * self.batch_size * WINDOW
        work = 8 * profile.linear * LOOKED_AT * WINDOW + 8 * self.share * profile.linear * tokens
        states = 4 * self.tokens * profile.hidden
        memory = plain.memory + 32 * profile.per_layer + states
        return dataclasses.replace(plain, memory=memory, seconds=plain.seconds + 30 + work / FLOPS)

    def _most_sensitive(self, work: Work, windows: torch.Tensor) -> set[int]:
        """Return the layers to learn: those whose rounding moves the predictions most, to second order."""
        sites = {site: [form] for site, form in work.formats.items()}
        layers = {
            site.layer for site, form in work.formats.items() if site.layer is not None and form.bits < ENOUGH_BITS
        }
        count = math.ceil(self.share * len(layers))
        if count in (0, len(layers)):
            return layers if count else set()
        file, inputs = work.context.scratch / ORDER_FILE, fingerprint.digest([repr(self), windows.tolist()])
        if file.exists() and (said := json.loads(file.read_text(encoding="utf-8")))["inputs"] == inputs:
            return set(said["order"][:count])
        costs = measured(work.model, windows[:LOOKED_AT], sites, work.context)
        sums = dict.fromkeys(layers, 0.0)
        for site, forms in costs.items():
            if site.layer is not None and site.layer in sums:
                sums[site.layer] += sum(forms.values())
        order = sorted(layers, key=lambda layer: (-sums[layer], layer))
        _atomic.write_json(file, {"inputs": inputs, "order": order})
        return set(order[:count])

    def _learned(
        self, work: Work, layer: Layer, shard: Shard, states: torch.Tensor, number: int
    ) -> dict[str, Rounded]:
        """Round one layer by GPTQ and go on from there; the layer is left with what is better."""
        import torch

        from picual.numerics import autoround

        floats = {name: layer.weight(name) for name in shard.quantized}
        wanted = torch.cat([layer.output(one, {}) for one in states.split(1)])
        found = group_by_group(work, layer, shard, states, _as_gptq)
        names = [name for name in found if work.form_of(name).bits < ENOUGH_BITS]
        before = _errors(layer, states, wanted)
        draws = torch.Generator().manual_seed(work.context.seed * 1_000_003 + number)

        def loss(values: list[torch.Tensor]) -> torch.Tensor:
            drawn = torch.randint(len(states), (self.batch_size,), generator=draws)
            weights = {name: one[:, : floats[name].shape[1]] for name, one in zip(names, values, strict=True)}
            # Relative to where it starts, or the easiest windows would seem the best iterate.
            return (layer.output(states[drawn], weights) - wanted[drawn]).square().sum() / before[drawn].sum()

        starts = [found[name] for name in names]
        with torch.enable_grad():
            codes, grids = autoround.learn_rounding(
                [_start(floats[name], one) for name, one in zip(names, starts, strict=True)],
                [one.grid for one in starts],
                loss, steps=self.steps,
                rate=LR / self.steps if self.lr is None else self.lr,
                scale_rate=MINMAX_LR / self.steps if self.minmax_lr is None else self.minmax_lr,
            )  # fmt: skip
        learned = {
            name: dataclasses.replace(one, grid=grid, codes=code)
            for name, one, grid, code in zip(names, starts, grids, codes, strict=True)
        }
        _put(layer, learned)
        after = _errors(layer, states, wanted)
        work.context.noted(
            f"layer {number}: learning left {float(after.sum() / before.sum()):.3f} of GPTQ's error"
        )
        if after.sum() < before.sum():
            return found | learned
        _put(layer, found)
        return found


def _as_gptq(
    names: Sequence[str], heights: Sequence[int], weight: torch.Tensor, moments: torch.Tensor, form: Format
) -> Rounded:
    from picual.numerics import rounding

    return rounding.with_moments(weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric)


def _start(weight: torch.Tensor, rounded: Rounded) -> torch.Tensor:
    from picual.numerics.autoround import moved_to
    from picual.numerics.rounding import filled

    return moved_to(filled(weight, rounded.grid.block), rounded.grid, rounded.codes)


def _put(layer: Layer, rounded: Mapping[str, Rounded]) -> None:
    for name, one in rounded.items():
        layer.replace(name, one.values())


def _errors(layer: Layer, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the squared error of the layer's output for each window (W,)."""
    import torch

    pairs = zip(states.split(1), wanted.split(1), strict=True)
    return torch.stack([(layer.output(one, {}) - its).square().sum() for one, its in pairs])
