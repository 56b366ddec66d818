"""Moves scales of a layer's inputs into what writes them, so that the layer computes what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from picual.models.links import Link
from picual.passes.quantize.layer import BATCH, Layer

if TYPE_CHECKING:
    import torch

# Search(link, H (K, K), E|x| (K,)) -> c (K,): what the readers' columns are multiplied by.
Search = Callable[[Link, "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
MOST_CHANGE = 1e-3  # of what a layer adds to its states; float32 leaves 1e-6


def fold(
    layer: Layer, states: torch.Tensor, links: Sequence[Link], search: Search
) -> dict[str, torch.Tensor] | None:
    """Scale a layer link by link, and return the norms' new weights by name.

    Returns None, with the layer as it was, where its outputs changed: then something else reads what was divided.

    Args:
        layer: Is left scaled.
        states: (W, T, hidden) before it.
        links: Of this layer, in the order of use.
        search: Finds the scales of one link.
    """
    from picual.numerics.awq import MeanSizes
    from picual.numerics.hessian import Moments

    before = layer.forward(states[:BATCH].clone())
    originals = {name: layer.weight(name) for link in links for name in (link.writer.name, *link.readers)}
    for link in links:
        moments, sizes = Moments(link.width), MeanSizes(link.width)

        def take(inputs: torch.Tensor, moments: Moments = moments, sizes: MeanSizes = sizes) -> None:
            moments.add(inputs)
            sizes.add(inputs)

        layer.watch(states, link.readers, take)
        _apply(layer, link, search(link, moments.mean(), sizes.mean()))
    change = (layer.forward(states[:BATCH].clone()) - before).norm()
    if not change <= MOST_CHANGE * (before - states[:BATCH]).norm():  # so that a NaN is a change too
        for name, weight in originals.items():
            layer.replace(name, weight)
        return None
    norms = [link.writer.name for link in links if layer.weight(link.writer.name).ndim == 1]
    return {name: layer.weight(name) for name in norms}


def _apply(layer: Layer, link: Link, scales: torch.Tensor) -> None:
    import torch

    rows = slice(link.writer.start, link.writer.stop)
    written = layer.weight(link.writer.name).clone()
    if written.ndim == 1:
        gain = written + link.added
        scales = torch.where(gain == 0, 1.0, scales)  # what is never there needs no scale
        written = gain / scales - link.added
    else:
        written[rows] /= scales[:, None]
    layer.replace(link.writer.name, written)
    for name in link.readers:
        layer.replace(name, layer.weight(name) * scales)
