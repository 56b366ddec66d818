"""How every quantizer goes through a checkpoint: weight by weight, or layer by layer over calibration text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from picual import fingerprint
from picual.models import HfModel, QuantizedHfModel, Stored
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize import head
from picual.passes.quantize.head import FromMoments
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.network import LayeredNetwork
from picual.passes.quantize.shards import Shard, ShardWriter, weight_of
from picual.passes.quantize.sites import Site, bytes_of, stored

if TYPE_CHECKING:
    import torch

    from picual.numerics.blockwise import Blocks
    from picual.numerics.rounding import Rounded

Formats = Mapping[Site, Format]
FromWeight = Callable[["torch.Tensor", Format], "Rounded"]
FromGroup = Callable[[list[str], list[int], "torch.Tensor", "torch.Tensor", Format], "Rounded"]


@dataclass(frozen=True)
class RoundedLayer:
    """What becomes of one layer.

    Attributes:
        weights: The integers by name; what is missing is rounded by what is known of it.
        floats: Tensors that stay floats and have other values now.
    """

    weights: Mapping[str, Rounded]
    floats: Mapping[str, torch.Tensor] = field(default_factory=dict)


FromLayer = Callable[[Layer, Shard, "torch.Tensor"], RoundedLayer]


@dataclass(frozen=True)
class Work:
    """One checkpoint to quantize.

    Attributes:
        model: The checkpoint.
        formats: How each site is stored.
        method: Name of the pass.
        inputs: What else decides the bytes.
        context: Of the pass.
    """

    model: HfModel
    formats: Formats
    method: str
    inputs: object
    context: PassContext

    def stored(self) -> dict[str, Stored]:
        """Return how each weight is stored."""
        return {name: how for site, form in self.formats.items() for name, how in stored(site, form).items()}

    def form_of(self, name: str) -> Format:
        """Return the format of one weight."""
        return next(form for site, form in self.formats.items() if name in site.names)

    def writer(self) -> ShardWriter:
        """Return where the result is put together."""
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.model.weight_files()]
        formats = {str(site): str(form) for site, form in self.formats.items()}
        digest = fingerprint.digest([files, formats, self.method, repr(self.inputs)])
        return ShardWriter(self.model, self.stored(), self.context.scratch, digest)


def nearest(weight: torch.Tensor, form: Format) -> Rounded:
    """Round a weight whose inputs are not known."""
    from picual.numerics import rounding

    return rounding.nearest(weight, bits=form.bits, block=form.block, symmetric=form.symmetric)


def weight_by_weight(work: Work, rounded: FromWeight) -> QuantizedHfModel:
    """Quantize without running the network."""
    import torch

    torch.set_num_threads(work.context.threads)
    writer = work.writer()
    for number, shard in enumerate(writer.shards):
        work.context.progress(number, len(writer.shards), shard.file)
        if not writer.is_done(shard):
            writer.write(shard, lambda name: _blocks(work, name, rounded))
    return _finish(work, writer)


def layer_by_layer(work: Work, windows: torch.Tensor, rounded: FromMoments) -> QuantizedHfModel:
    """Quantize each weight on the states that the quantized weights before it leave.

    Args:
        work: What to do.
        windows: Calibration token ids (W, T).
        rounded: Rounds a weight (N, K), given the second moments (K, K) of its inputs.
    """

    def of_layer(layer: Layer, shard: Shard, states: torch.Tensor) -> RoundedLayer:
        return RoundedLayer(
            group_by_group(work, layer, shard, states, lambda _names, _heights, *known: rounded(*known))
        )

    return layers_in_turn(work, windows, of_layer, rounded)


def layers_in_turn(
    work: Work, windows: torch.Tensor, of_layer: FromLayer, of_head: FromMoments
) -> QuantizedHfModel:
    """Quantize a layer at a time, each as a whole; then the head, on the states after the last.

    Args:
        work: What to do.
        windows: Calibration token ids (W, T).
        of_layer: Rounds a layer, given the states (W, T, hidden) before it, and leaves it rounded.
        of_head: Rounds the head, given the second moments (K, K) of its inputs.
    """
    import torch

    torch.set_num_threads(work.context.threads)
    writer = work.writer()
    network = LayeredNetwork(work.model, windows)
    states = network.states
    with torch.no_grad():
        for number, shard in enumerate(writer.shards):
            work.context.progress(number, len(writer.shards), shard.file)
            if number >= len(network):
                if not writer.is_done(shard):
                    writer.write(shard, _rest(work, network, states, of_head))
                continue
            with network.layer(number) as layer:
                if writer.is_done(shard):
                    _restore(layer, writer, shard)
                else:
                    _write(work, writer, shard, of_layer(layer, shard, states))
                states = layer.forward(states)
    return _finish(work, writer)


def _restore(layer: Layer, writer: ShardWriter, shard: Shard) -> None:
    """Give a layer the values that an interrupted run has left of it."""
    import torch

    for name in shard.quantized:
        weight = writer.finished(shard, name)
        layer.replace(name, torch.from_numpy(weight.rows(0, weight.how.shape[0])))
    for name, values in writer.changed(shard).items():
        layer.replace(name, torch.from_numpy(values))


def _rest(work: Work, network: LayeredNetwork, states: torch.Tensor, by: FromMoments) -> Callable[[str], Blocks]:
    """Return what rounds the weights outside the layers: the head on its inputs, a table alone as it is."""
    site = next((site for site in work.formats if site.is_head), None)

    def of_head(weight: torch.Tensor, form: Format) -> Rounded:
        assert site is not None
        return head.rounded(weight, head.moments_of(network, states), form, by, looked_up=site.is_table)

    return lambda name: _blocks(work, name, of_head if site is not None and name in site.names else nearest)


def _write(work: Work, writer: ShardWriter, shard: Shard, made: RoundedLayer) -> None:
    writer.write(
        shard,
        lambda name: (
            made.weights[name].blocks(symmetric=work.form_of(name).symmetric)
            if name in made.weights
            else _blocks(work, name, nearest)
        ),
        {name: values.numpy() for name, values in made.floats.items()},
    )


def group_by_group(
    work: Work, layer: Layer, shard: Shard, states: torch.Tensor, rounded: FromGroup
) -> dict[str, Rounded]:
    """Round the weights of a layer, those that share their inputs together, each on what those before it leave.

    Args:
        work: What to do.
        layer: Is left with the rounded weights.
        shard: Says which weights.
        states: (W, T, hidden) before the layer.
        rounded: Rounds stacked weights (N, K), given their names, heights and moments (K, K).
    """
    import torch

    from picual.numerics.hessian import Moments

    found: dict[str, Rounded] = {}
    for group in layer.groups(states):
        names = [name for name in group if name in shard.quantized]
        if not names:
            continue
        moments = Moments(layer.weight(names[0]).shape[1])
        layer.watch(states, group, moments.add)
        for form, alike in _by_format(work, names).items():
            heights = [len(layer.weight(name)) for name in alike]
            stacked = torch.cat([layer.weight(name) for name in alike])
            made = rounded(alike, heights, stacked, moments.mean(), form)
            first = 0
            for name, height in zip(alike, heights, strict=True):
                found[name] = made.rows(first, first + height)
                layer.replace(name, found[name].values())
                first += height
    return found


def _by_format(work: Work, names: list[str]) -> dict[Format, list[str]]:
    groups: dict[Format, list[str]] = {}
    for name in names:
        groups.setdefault(work.form_of(name), []).append(name)
    return groups


def _blocks(work: Work, name: str, rounded: FromWeight) -> Blocks:
    import torch

    form = work.form_of(name)
    return rounded(torch.from_numpy(weight_of(work.model, name)), form).blocks(symmetric=form.symmetric)


def _finish(work: Work, writer: ShardWriter) -> QuantizedHfModel:
    for site, form in work.formats.items():
        for name in site.names:
            work.context.changed(name, str(form))
    weights = sum(site.weights for site in work.formats)
    size = sum(bytes_of(site, form) for site, form in work.formats.items())
    if weights:
        work.context.metrics["bits_per_weight"] = 8 * size / weights
    return writer.place(work.context.folder, work.method)
