"""The few ways in which exporting changes a graph: new constants, replaced nodes, swept leftovers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def add_initializer(model: ir.Model, tensor: ir.ExternalTensor) -> ir.Value:
    """Return a new initializer of the graph with that content."""
    import onnx_ir as ir

    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def add_integers(model: ir.Model, name: str, numbers: Sequence[int]) -> ir.Value:
    """Return an int64 initializer of the graph that holds a few numbers; the one there is, if it has that name."""
    import onnx_ir as ir

    if name not in model.graph.initializers:
        tensor = ir.tensor(list(numbers), dtype=ir.DataType.INT64, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
        )
        model.graph.register_initializer(value)
    return model.graph.initializers[name]


def replace_node(model: ir.Model, old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put nodes in the place of one; the last new node's output takes over the old one's name and users."""
    import onnx_ir as ir

    ir.convenience.replace_nodes_and_values(model.graph, old, [old], new, [old.outputs[0]], [new[-1].outputs[0]])


def replace_nodes(
    model: ir.Model,
    old: Sequence[ir.Node],
    new: Sequence[ir.Node],
    values: Sequence[tuple[ir.Value, ir.Value]],
    *,
    after: ir.Node,
) -> None:
    """Put nodes in the place of several; of each pair of values the second takes over the first's name and users.

    Args:
        model: Whose graph it is.
        old: What goes.
        new: What comes, in order.
        values: Old and new outputs.
        after: Where the new nodes go; it may be one of the old.
    """
    import onnx_ir as ir

    before, now = zip(*values, strict=True)
    ir.convenience.replace_nodes_and_values(model.graph, after, old, new, before, now)


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every user of ``old`` use ``new``."""
    import onnx_ir as ir

    ir.convenience.replace_all_uses_with(old, new)


def sweep(model: ir.Model) -> None:
    """Remove nodes and initializers that nothing uses any more."""
    graph = model.graph
    kept = set(graph.outputs)
    for node in list(reversed(list(graph))):
        if all(not output.uses() and output not in kept for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in kept:
            del graph.initializers[name]
