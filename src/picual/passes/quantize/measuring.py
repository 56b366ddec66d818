"""Measures once what each format of each site would cost, a layer in memory at a time.

Forward through the layers, keeping the states between them; answers drawn from the model's own predictions;
backward through the layers in turn. Each weight is rounded to every candidate on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from picual.models.layout import HEAD
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize import head
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.network import LayeredNetwork
from picual.passes.quantize.shards import weight_of
from picual.passes.quantize.sites import Site

if TYPE_CHECKING:
    import torch

    from picual.models import HfModel
    from picual.numerics.rounding import Rounded
    from picual.numerics.sensitivity import Inputs

ROWS = 256  # of a weight that are rounded to every format; what the rest would cost is told by their size
HEAD_ROWS = 2048
BLOCKS = (16, 32, 64, 128, 256)
# What GPTQ leaves of the divergence that nearest codes of the same grid bring: 0.078 of 0.130 on a 135M model.
COMPENSATED = 0.6
SAYING = "measuring what each layer can bear"
Costs = dict[Site, dict[Format, float]]


def measured(
    model: HfModel, windows: torch.Tensor, candidates: Mapping[Site, Sequence[Format]], context: PassContext,
    *, compensated: bool = True,
) -> Costs:  # fmt: skip
    """Return the KL in nats a token that each candidate format of each site brings.

    Args:
        model: The checkpoint.
        windows: Token ids (W, T).
        candidates: Formats to weigh, by site.
        context: For threads, seed and progress.
        compensated: Whether weights will be rounded by GPTQ, and not to the nearest codes.

    Raises:
        Refused: The network cannot be run a layer at a time.
    """
    import torch

    torch.set_num_threads(context.threads)
    network = LayeredNetwork(model, windows)
    look = _Look(model, candidates, compensated=compensated)
    look.at_the_start(windows, network.states)
    kept = [network.states.clone()]
    with torch.no_grad():
        for number in range(len(network)):
            context.progress(number, 3 * len(network), SAYING)
            with network.layer(number) as layer:
                kept.append(layer.forward(kept[-1].clone()))
    slope = look.from_the_head(network, kept.pop(), context.seed)
    for number in reversed(range(len(network))):
        context.progress(3 * len(network) - 2 * number, 3 * len(network), SAYING)
        with network.layer(number) as layer:
            slope = look.through(number, layer, kept.pop(), slope)
    look.at_the_tables(slope)
    return look.costs


class _Look:
    """What was found so far, on the way back.

    Args:
        model: The checkpoint.
        candidates: Formats to weigh, by site.
        compensated: Whether weights will be rounded by GPTQ.
    """

    def __init__(self, model: HfModel, candidates: Mapping[Site, Sequence[Format]], *, compensated: bool) -> None:
        self.costs: Costs = {}
        self._model, self._candidates, self._compensated = model, candidates, compensated
        self._embedding_scale = 1.0  # squared: what a network multiplies rows by that it looks up
        self._of_columns: dict[tuple[Site, Format], torch.Tensor] = {}  # mean squared errors (K,) of a table

    def at_the_start(self, windows: torch.Tensor, states: torch.Tensor) -> None:
        """Read off how much larger the first states (W, T, hidden) are than the rows that were looked up."""
        import torch

        site = next((site for site in self._candidates if site.is_table), None)
        if site is not None:
            rows = torch.from_numpy(weight_of(self._model, site.names[0]))[windows[0]]
            self._embedding_scale = float(states[0].square().mean() / rows.square().mean().clamp(min=1e-30))

    def from_the_head(self, network: LayeredNetwork, states: torch.Tensor, seed: int) -> torch.Tensor:
        """Draw an answer at every position and return the slope at the last states (W, T, hidden)."""
        import torch

        from picual.numerics.sensitivity import Inputs

        site = next((site for site in self._candidates if site.is_head), None)
        weight = torch.from_numpy(weight_of(self._model, site.names[0] if site is not None else HEAD))  # (V, K)
        inputs, squares, count = Inputs(weight.shape[1], BLOCKS), torch.zeros(len(weight)), 0
        generator = torch.Generator().manual_seed(seed)
        slopes = []
        for window in states:
            leaf = window.clone().requires_grad_()
            final = network.final(leaf)
            with torch.no_grad():
                logits, gain = network.logits(final @ weight.T)
                odds = torch.softmax(logits, -1)
                drawn = torch.multinomial(odds, 1, generator=generator)
                odds.scatter_add_(1, drawn, torch.full_like(odds[:, :1], -1.0)).mul_(gain)  # dL/d(W x)
                inputs.add(final)
                squares += odds.square().sum(0)
                count += len(odds)
                back = odds @ weight
            final.backward(back)
            assert leaf.grad is not None
            slopes.append(leaf.grad)
        if site is not None:
            self._weigh(site, weight, inputs, squares / count)
        return torch.stack(slopes)

    def through(self, number: int, layer: Layer, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Go back through one layer; return the slope at its input."""
        import torch

        from picual.numerics.sensitivity import Inputs

        sites = [site for site in self._candidates if site.layer == number]
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
            self._weigh(site, weight, inputs[site.names[0]], gradients)
        return torch.cat(below)

    def at_the_tables(self, slope: torch.Tensor) -> None:
        """Add what the rounding of a table brings where its rows are looked up, every row taken as likely."""
        import torch

        gradients = slope.reshape(-1, slope.shape[-1]).square().mean(0) * self._embedding_scale
        for site in (site for site in self._candidates if site.is_table):
            of_site = self.costs.setdefault(site, {})
            if not site.is_head:
                table = torch.from_numpy(weight_of(self._model, site.names[0]))
                table = table[some(len(table), HEAD_ROWS)]
                for form in self._candidates[site]:
                    self._of_columns[site, form] = _mean_squares(_nearest(table, form), table)
            for form in self._candidates[site]:
                looked_up = float(0.5 * (gradients * self._of_columns[site, form]).sum())
                of_site[form] = of_site.get(form, 0.0) + looked_up

    def _weigh(self, site: Site, weight: torch.Tensor, inputs: Inputs, gradients: torch.Tensor) -> None:
        """Say what each format of a weight costs: its own rounding, and that of the activations it goes with.

        Some of the rows are rounded. Errors of the others are taken to be as large beside w^2 E[g^2].
        """
        from picual.numerics import rounding, sensitivity

        moments = inputs.moments()
        chosen = some(len(weight), HEAD_ROWS if site.is_head else ROWS)
        sample, its_gradients = weight[chosen], gradients[chosen]
        sizes = weight.square().sum(1) * gradients
        share = float(sizes.sum() / sizes[chosen].sum().clamp(min=1e-30))
        found = self.costs.setdefault(site, {})
        for form in self._candidates[site]:
            tried = self._tried(site, sample, moments, form)
            error = share * sensitivity.of_weights(tried.values() - sample, moments, its_gradients)
            less = self._compensated and not site.is_head and form.bits < rounding.ENOUGH_BITS
            found[form] = error * (COMPENSATED if less else 1)
            found[form] += sensitivity.of_activations(weight, inputs.squared_steps(form.block), gradients)
            if site.is_head and site.is_table:
                self._of_columns[site, form] = _mean_squares(tried, sample)

    def _tried(self, site: Site, sample: torch.Tensor, moments: torch.Tensor, form: Format) -> Rounded:
        """Round rows as they will be; those of the layers without GPTQ, whose part is known well enough."""
        from picual.numerics import rounding

        if not self._compensated:
            return _nearest(sample, form)
        if site.is_head:
            return head.rounded(sample, moments, form, _by_gptq, looked_up=site.is_table)
        return rounding.with_moments(
            sample, moments, bits=form.bits, block=form.block, symmetric=form.symmetric, compensate=False
        )


def some(height: int, count: int) -> torch.Tensor:
    """Return the numbers of at most ``count`` of the rows, evenly spaced."""
    import torch

    return torch.linspace(0, height - 1, min(count, height)).round().long()


def _nearest(weight: torch.Tensor, form: Format) -> Rounded:
    from picual.numerics import rounding

    return rounding.nearest(weight, bits=form.bits, block=form.block, symmetric=form.symmetric)


def _by_gptq(weight: torch.Tensor, moments: torch.Tensor, form: Format) -> Rounded:
    from picual.numerics import rounding

    return rounding.with_moments(weight, moments, bits=form.bits, block=form.block, symmetric=form.symmetric)


def _mean_squares(tried: Rounded, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each column (K,)."""
    return (tried.values() - weight).square_().mean(0)
