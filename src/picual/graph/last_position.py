"""Logits for the last token alone: prefill multiplies by the head once, whatever the length of the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from picual.graph.edits import add_integers
from picual.graph.linears import WEIGHT
from picual.models.all_positions import LAST_POSITION
from picual.models.layout import HEAD

if TYPE_CHECKING:
    import onnx_ir as ir


def keep_last_position(model: ir.Model) -> bool:
    """Let the head read the last hidden state alone; return False where no node is known to be the head.

    The node is marked, so that it can be by-passed where logits at every position are wanted.
    """
    import onnx_ir as ir

    head = next((node for node in model.graph if _is_head(node)), None)
    if head is None or not {"attention_mask", "input_ids"} <= {str(value.name) for value in model.graph.inputs}:
        return False
    hidden = head.inputs[0]
    assert hidden is not None  # it is a matrix product
    nodes = [*_of_each_row(model, hidden)]
    nodes[-1].metadata_props[LAST_POSITION] = "logits"
    model.graph.insert_before(head, nodes)
    head.replace_input_with(0, nodes[-1].outputs[0])
    for output in model.graph.outputs:
        if output.name == "logits" and output.shape is not None:
            output.shape = ir.Shape([output.shape[0], 1, *output.shape[2:]])
    return True


def _of_each_row(model: ir.Model, hidden: ir.Value) -> Iterator[ir.Node]:
    """Yield nodes from states (B, T, D) to those of each row's last token (B, 1, D).

    onnxruntime-genai pads the shorter prompts of a batch on the right, so a row's last token is where its part of
    the attention mask ends; the mask counts the tokens of the cache too.
    """
    import onnx_ir as ir

    inputs = {str(value.name): value for value in model.graph.inputs}
    first = add_integers(model, "last_position/axis", [1])
    one = add_integers(model, "last_position/one", [1])
    none = add_integers(model, "last_position/none", [0])
    mask, ids = inputs["attention_mask"], inputs["input_ids"]

    def node(kind: str, given: list[ir.Value], **attributes: int) -> ir.Node:
        return ir.node(kind, given, attributes, name=f"lm_head/last_position/{kind}{len(made)}")

    made: list[ir.Node] = []
    made.append(node("ReduceSum", [mask, first], keepdims=1))  # (B, 1)
    made.append(node("Shape", [mask], start=1, end=2))
    made.append(node("Shape", [ids], start=1, end=2))
    made.append(node("Sub", [made[1].outputs[0], made[2].outputs[0]]))  # tokens in the cache
    made.append(node("Sub", [made[0].outputs[0], made[3].outputs[0]]))
    made.append(node("Sub", [made[4].outputs[0], one]))
    made.append(node("Max", [made[5].outputs[0], none]))
    made.append(node("GatherND", [hidden, made[6].outputs[0]], batch_dims=1))  # (B, D)
    made.append(node("Unsqueeze", [made[7].outputs[0], first]))
    yield from made


def _is_head(node: ir.Node) -> bool:
    return node.metadata_props.get(WEIGHT) == HEAD and node.op_type in {"MatMul", "MatMulNBits"}
