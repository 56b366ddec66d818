"""Low-rank updates as inputs of a graph: y = W x + B (A x), where the runtime is handed A and B, or nothing.

Each input has a default of rank 0 (an initializer of the same name), so that a graph run without them is the one
without updates. Sizes of rank are free: adapters of any rank go through one graph.
Source: ONNX Runtime, Multi LoRA, https://onnxruntime.ai/docs/genai/tutorials/finetune.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from picual.graph.linears import WEIGHT

if TYPE_CHECKING:
    import onnx_ir as ir

MULTIPLY = ("MatMul", "MatMulNBits")


@dataclass(frozen=True)
class FinishedLinear:
    """A linear layer of a finished graph, y = x W^T.

    Attributes:
        node: That multiplies by W.
        names: The weights that make up W, named in Llama's way, in row order.
    """

    node: ir.Node
    names: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Name of the layer."""
        return str(self.node.name).rpartition("/")[0]

    @property
    def inputs(self) -> tuple[str, str]:
        """Names of its A^T (K, R) and scaled B^T (R, N)."""
        return f"{self.stem}.lora_A", f"{self.stem}.lora_B"


def finished_linears(model: ir.Model) -> Iterator[FinishedLinear]:
    """Yield the linear layers of a graph whose weights have their places, in the order of the graph."""
    for node in model.graph:
        said = node.metadata_props.get(WEIGHT)
        if said and node.op_type in MULTIPLY:
            yield FinishedLinear(node, tuple(said.split(",")))


def add_update(model: ir.Model, linear: FinishedLinear, width: int, height: int, floats: ir.DataType) -> None:
    """Add the update of one linear layer to what it gives.

    Args:
        model: Whose graph it is.
        linear: The layer.
        width: K, its inputs.
        height: N, its outputs.
        floats: Type of its activations.
    """
    import onnx_ir as ir

    node, (first, second) = linear.node, linear.inputs
    rank = f"{linear.stem}.rank"
    before = node.outputs[0]
    uses = tuple(before.uses())
    down = ir.node("MatMul", [node.inputs[0], _input(model, first, (width, rank), floats)], name=f"{first}/MatMul")
    up = ir.node(
        "MatMul", [down.outputs[0], _input(model, second, (rank, height), floats)], name=f"{second}/MatMul"
    )
    both = ir.node("Add", [before, up.outputs[0]], name=f"{linear.stem}.lora/Add")
    model.graph.insert_after(node, [down, up, both])
    for user, place in uses:
        user.replace_input_with(place, both.outputs[0])
    _give_out(model, before, both.outputs[0])


def _input(model: ir.Model, name: str, sizes: tuple[int | str, int | str], floats: ir.DataType) -> ir.Value:
    """Return a new input of the graph with a default of rank 0."""
    import numpy as np
    import onnx_ir as ir

    empty = np.zeros([size if isinstance(size, int) else 0 for size in sizes], floats.numpy())
    value = ir.Value(
        name=name, shape=ir.Shape(sizes), type=ir.TensorType(floats), const_value=ir.tensor(empty, name=name)
    )
    model.graph.inputs.append(value)
    model.graph.register_initializer(value)
    return value


def _give_out(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be the output of the graph that ``old`` is, if it is one."""
    outputs = model.graph.outputs
    for place, value in enumerate(outputs):
        if value is old:
            name = old.name
            new.shape, new.type = old.shape, old.type
            old.name, new.name = f"{name}.base", name
            outputs[place] = new
