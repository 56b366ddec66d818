"""Linear layers that read the same input become one of stacked rows: gate and up projections.

W = [gate; up], (g, u) = split(x W^T): one kernel reads the input, and rounds it where it is rounded, once. The
graph library does so for query, key and value; here it is done for the two that a gated MLP starts with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from picual.graph.edits import add_integers, replace_nodes
from picual.graph.linears import GATE, LinearSite, linear_sites, packed_stem

if TYPE_CHECKING:
    import onnx_ir as ir


def pack_gates(model: ir.Model, alike: Callable[[Sequence[str]], bool]) -> None:
    """Stack every gate projection on the up projection beside it.

    Additions of biases stay where they are, behind the halves that are split again.

    Args:
        model: Whose linear layers are still sites.
        alike: Says of weights by name whether they will have one format; where not, both stay as they are.
    """
    for first, second in list(_pairs(model)):
        gate, up = (first, second) if GATE in first.names[0] else (second, first)
        if alike((*gate.names, *up.names)):
            _pack(model, gate, up, after=first.node)


def _pairs(model: ir.Model) -> Iterator[tuple[LinearSite, LinearSite]]:
    """Yield the gate and up projections of one MLP, in the order of the graph."""
    waiting: dict[str, LinearSite] = {}
    for site in linear_sites(model):
        stem = packed_stem(site.names[0])
        if len(site.names) > 1 or stem is None:
            continue
        other = waiting.pop(stem, None)
        if other is None:
            waiting[stem] = site
        elif other.node.inputs[0] is site.node.inputs[0] and other.width == site.width:
            yield other, site


def _pack(model: ir.Model, gate: LinearSite, up: LinearSite, *, after: ir.Node) -> None:
    import onnx_ir as ir

    stem = packed_stem(gate.names[0])
    sizes = add_integers(model, f"rows.{gate.height}.{up.height}", [gate.height, up.height])
    stacked = ir.node("Concat", [*gate.weights, *up.weights], {"axis": 0}, name=f"{stem}/Concat")
    turned = ir.node("Transpose", stacked.outputs, {"perm": [1, 0]}, name=f"{stem}/Transpose")
    product = ir.node("MatMul", [gate.node.inputs[0], *turned.outputs], name=f"{stem}/MatMul")
    split = ir.node("Split", [*product.outputs, sizes], {"axis": -1}, num_outputs=2, name=f"{stem}/Split")
    replace_nodes(
        model, [gate.node, up.node], [stacked, turned, product, split],
        list(zip([*gate.node.outputs, *up.node.outputs], split.outputs, strict=True)), after=after,
    )  # fmt: skip
