"""What errors of each kind of weight commonly do, where no text tells what they do here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from picual.models import HfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize.measuring import HEAD_ROWS, ROWS, Costs, some
from picual.passes.quantize.shards import weight_of
from picual.passes.quantize.sites import Site

# Divergence for a relative squared error of 1, by the first weight of a site, on a 135M model: only their ratios
# count. Layers differ by more than that, which text alone can tell.
BY_KIND = {
    "q_proj": 0.36,
    "o_proj": 0.04,
    "gate_proj": 0.19,
    "down_proj": 0.1,
    "qkv_proj": 0.36,
    "gate_up_proj": 0.19,
}
HEAD_KIND, OTHER_KIND = 5.5, 0.15


def by_weights_alone(model: HfModel, candidates: Mapping[Site, Sequence[Format]], context: PassContext) -> Costs:
    """Return a stand-in for the costs where there is no text.

    Squared errors relative to each weight's size, times what such an error in a weight of its kind commonly does.
    """
    import torch

    from picual.numerics import rounding

    costs: Costs = {}
    for number, (site, formats) in enumerate(candidates.items()):
        context.progress(number, len(candidates), f"weighing {site}")
        weight: Any = torch.cat([torch.from_numpy(weight_of(model, name)) for name in site.names])
        weight = weight[some(len(weight), ROWS if site.layer is not None else HEAD_ROWS)]
        kind = BY_KIND.get(site.names[0].split(".")[-2], OTHER_KIND) if site.layer is not None else HEAD_KIND
        share = kind / (float(weight.square().sum()) or 1.0)
        costs[site] = {}
        for form in formats:
            rounded = rounding.nearest(weight, bits=form.bits, block=form.block, symmetric=form.symmetric)
            costs[site][form] = share * float((rounded.values() - weight).square().sum())
    return costs
