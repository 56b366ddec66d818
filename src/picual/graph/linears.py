"""The linear layers of a graph: every MatMul whose right side comes from weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from picual.models.layout import HEAD

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT = "picual.weight"  # metadata of a node: the weights it holds, named in Llama's way, in row order
GATE, UP = ".gate_proj.", ".up_proj."  # in the names of the two that a gated MLP starts with


@dataclass(frozen=True)
class LinearSite:
    """One linear layer, y = x W^T.

    Attributes:
        node: The MatMul.
        weights: Initializers that make up W, in row order.
        names: The same as named in Llama's way: a tied head is ``lm_head.weight``.
        heights: Rows of each.
        width: K, the inputs.
        is_head: Whether it makes the logits.
    """

    node: ir.Node
    weights: tuple[ir.Value, ...]
    names: tuple[str, ...]
    heights: tuple[int, ...]
    width: int
    is_head: bool

    @property
    def height(self) -> int:
        """N, the outputs."""
        return sum(self.heights)

    @property
    def stem(self) -> str:
        """Name of the layer, that of the stacked one for query, key and value, or for gate and up."""
        first = self.names[0].removesuffix(".weight")
        if len(self.names) == 2:
            return packed_stem(self.names[0]) or first
        return first.replace("q_proj", "qkv_proj") if len(self.names) == 3 else first


def packed_stem(name: str) -> str | None:
    """Return the name of the layer that a gate or up projection is part of; None for any other weight."""
    for part in (GATE, UP):
        if part in name:
            return name.replace(part, ".gate_up_proj.").removesuffix(".weight")
    return None


def linear_sites(model: ir.Model) -> Iterator[LinearSite]:
    """Yield the linear layers in the order of the graph; it may be edited once all are taken."""
    for node in model.graph:
        if node.op_type != "MatMul" or node.domain not in {"", "ai.onnx"}:
            continue
        weights = _stacked(node.inputs[1], model.graph)
        if weights:
            yield _site(node, weights, model)


def _stacked(value: ir.Value | None, graph: ir.Graph) -> tuple[ir.Value, ...]:
    """Return the initializers that, stacked and transposed, are ``value``."""
    transpose = None if value is None else value.producer()
    if transpose is None or transpose.op_type != "Transpose":
        return ()
    source = transpose.inputs[0]
    producer = None if source is None else source.producer()
    if producer is not None and producer.op_type == "Concat" and producer.attributes.get_int("axis") == 0:
        parts = tuple(producer.inputs)
    else:
        parts = (source,)
    found = tuple(part for part in parts if part is not None and part.name in graph.initializers)
    return found if len(found) == len(parts) else ()


def _site(node: ir.Node, weights: tuple[ir.Value, ...], model: ir.Model) -> LinearSite:
    shapes = [weight.shape.numpy() for weight in weights if weight.shape is not None]
    is_head = weights[0].name == HEAD or node.outputs[0] in model.graph.outputs
    return LinearSite(
        node=node,
        weights=weights,
        names=(HEAD,) if is_head else tuple(str(weight.name) for weight in weights),
        heights=tuple(int(shape[0]) for shape in shapes),
        width=int(shapes[0][1]),
        is_head=is_head,
    )


def embedding_site(model: ir.Model) -> ir.Node | None:
    """Return the Gather that looks up ``input_ids`` in a table of weights."""
    for node in model.graph:
        if node.op_type == "Gather" and len(node.inputs) == 2 and node.inputs[0] is not None:
            indices = node.inputs[1]
            if indices in model.graph.inputs and node.inputs[0].name in model.graph.initializers:
                return node
    return None
