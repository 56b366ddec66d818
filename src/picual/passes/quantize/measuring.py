"""Measures once what each format of each site would cost, a layer in memory at a time.

Forward through the layers, keeping the states between them; answers drawn from the model's own predictions;
backward through the layers in turn. Each weight is rounded to every candidate on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from picual.models.layout import HEAD
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.network import LayeredNetwork
from picual.passes.quantize.shards import weight_of
from picual.passes.quantize.sites import Site

if TYPE_CHECKING:
    import torch

    from picual.models import HfModel
    from picual.numerics.sensitivity import Inputs

TOKENS = 2048
ROWS = 256  # of a weight that are rounded to every format; what the rest would cost is told by their size
HEAD_ROWS = 2048
BLOCKS = (16, 32, 64, 128, 256)
# What GPTQ leaves of the divergence that nearest codes of the same grid bring: 0.078 of 0.130 on a 135M model.
COMPENSATED = 0.6
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
Costs = dict[Site, dict[Format, float]]


def measured(
    model: HfModel, windows: torch.Tensor, candidates: Mapping[Site, Sequence[Format]], context: PassContext
) -> Costs:
    """Return the KL in nats a token that each candidate format of each site brings.

    Args:
        model: The checkpoint.
        windows: Token ids (W, T).
        candidates: Formats to weigh, by site.
        context: For threads, seed and progress.
    """
    import torch

    torch.set_num_threads(context.threads)
    network = LayeredNetwork(model, windows)
    kept = [network.states.clone()]
    with torch.no_grad():
        for number in range(len(network)):
            context.progress(number, 3 * len(network), "measuring what each layer can bear")
            with network.layer(number) as layer:
                kept.append(layer.forward(kept[-1].clone()))
    costs: Costs = {}
    slope = _from_the_head(model, network, kept.pop(), candidates, costs, context)
    for number in reversed(range(len(network))):
        context.progress(3 * len(network) - 2 * number, 3 * len(network), "measuring what each layer can bear")
        sites = [site for site in candidates if site.layer == number]
        with network.layer(number) as layer:
            slope = _through(layer, kept.pop(), slope, sites, candidates, costs)
    _add_looked_up(model, slope, candidates, costs)
    return costs


def _from_the_head(
    model: HfModel, network: LayeredNetwork, states: torch.Tensor, candidates: Mapping[Site, Sequence[Format]],
    costs: Costs, context: PassContext,
) -> torch.Tensor:  # fmt: skip
    """Draw an answer at every position and return the slope at the last states (W, T, hidden)."""
    import torch

    from picual.numerics.sensitivity import Inputs

    site = next((site for site in candidates if site.is_head), None)
    name = site.names[0] if site is not None else HEAD
    head = torch.from_numpy(weight_of(model, name))  # (V, hidden)
    inputs, squares, count = Inputs(head.shape[1], BLOCKS), torch.zeros(len(head)), 0
    generator = torch.Generator().manual_seed(context.seed)
    slopes = []
    for window in states:
        leaf = window.clone().requires_grad_()
        final = network.final(leaf)
        with torch.no_grad():
            odds = torch.softmax(final @ head.T, -1)
            drawn = torch.multinomial(odds, 1, generator=generator)
            odds.scatter_add_(1, drawn, torch.full_like(odds[:, :1], -1.0))  # dL/dlogits
            inputs.add(final)
            squares += odds.square().sum(0)
            count += len(odds)
            back = odds @ head
        final.backward(back)
        assert leaf.grad is not None
        slopes.append(leaf.grad)
    if site is not None:
        costs[site] = _of_formats(head, inputs, squares / count, candidates[site], compensated=False)
    return torch.stack(slopes)


def _add_looked_up(
    model: HfModel, slope: torch.Tensor, candidates: Mapping[Site, Sequence[Format]], costs: Costs
) -> None:
    """Add what the rounding of a table brings where its rows are looked up, every row taken as likely."""
    import torch

    from picual.numerics import rounding

    gradients = slope.reshape(-1, slope.shape[-1]).square().mean(0)
    for site in candidates:
        if not site.is_table:
            continue
        table = torch.from_numpy(weight_of(model, site.names[0]))
        table = table[_some(len(table), HEAD_ROWS)]
        of_site = costs.setdefault(site, {})
        for form in candidates[site]:
            rounded = rounding.nearest(table, bits=form.bits, block=form.block, symmetric=form.symmetric)
            squares = (rounded.values() - table).square_().mean(0)
            of_site[form] = of_site.get(form, 0.0) + float(0.5 * (gradients * squares).sum())


def _through(
    layer: Layer, states: torch.Tensor, slope: torch.Tensor, sites: Sequence[Site],
    candidates: Mapping[Site, Sequence[Format]], costs: Costs,
) -> torch.Tensor:  # fmt: skip
    """Go back through one layer; return the slope at its input."""
    import torch

    from picual.numerics.sensitivity import Inputs

    names = [name for site in sites for name in site.names]
    inputs = {name: Inputs(layer.weight(name).shape[1], BLOCKS) for name in (site.names[0] for site in sites)}
    squares = {name: torch.zeros(layer.weight(name).shape[0]) for name in names}
    count = states.shape[0] * states.shape[1]

    def see(name: str, given: torch.Tensor, output: torch.Tensor) -> None:
        if name in inputs:
            inputs[name].add(given)

        def take(slope_here: torch.Tensor) -> None:
            squares[name].add_(slope_here.reshape(-1, slope_here.shape[-1]).square().sum(0))

        output.register_hook(take)

    below = []
    for one, its in zip(states.split(1), slope.split(1), strict=True):
        below.append(layer.back(one, its, names, see))
    for site in sites:
        weight = torch.cat([layer.weight(name) for name in site.names])
        gradients = torch.cat([squares[name] for name in site.names]) / count
        costs[site] = _of_formats(weight, inputs[site.names[0]], gradients, candidates[site], compensated=True)
    return torch.cat(below)


def _of_formats(
    weight: torch.Tensor, inputs: Inputs, gradients: torch.Tensor, formats: Sequence[Format], *, compensated: bool
) -> dict[Format, float]:
    """Return what each format of a weight costs: its own rounding, and that of the activations it goes with.

    Some of the rows are rounded. Errors of the others are taken to be as large beside w^2 E[g^2].
    """
    from picual.numerics import rounding, sensitivity

    moments = inputs.moments()
    some = _some(len(weight), ROWS if compensated else HEAD_ROWS)
    sample, its_gradients = weight[some], gradients[some]
    sizes = weight.square().sum(1) * gradients
    share = float(sizes.sum() / sizes[some].sum().clamp(min=1e-30))
    found = {}
    for form in formats:
        rounded = rounding.with_moments(
            sample, moments, bits=form.bits, block=form.block, symmetric=form.symmetric, compensate=False
        )
        error = share * sensitivity.of_weights(rounded.values() - sample, moments, its_gradients)
        found[form] = error * (COMPENSATED if compensated and form.bits < rounding.ENOUGH_BITS else 1)
        found[form] += sensitivity.of_activations(weight, inputs.squared_steps(form.block), gradients)
    return found


def _some(height: int, count: int) -> torch.Tensor:
    """Return the numbers of at most ``count`` of the rows, evenly spaced."""
    import torch

    return torch.linspace(0, height - 1, min(count, height)).round().long()


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
        weight = weight[_some(len(weight), ROWS if site.layer is not None else HEAD_ROWS)]
        kind = BY_KIND.get(site.names[0].split(".")[-2], OTHER_KIND) if site.layer is not None else HEAD_KIND
        share = kind / (float(weight.square().sum()) or 1.0)
        costs[site] = {}
        for form in formats:
            rounded = rounding.nearest(weight, bits=form.bits, block=form.block, symmetric=form.symmetric)
            costs[site][form] = share * float((rounded.values() - weight).square().sum())
    return costs
