"""Linear layers as plain ``MatMul`` on the transposed weight: nothing left to stack or transpose when loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picual.graph.edits import add_initializer, replace_node
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT, LinearSite

if TYPE_CHECKING:
    import onnx_ir as ir


def replace_linear(model: ir.Model, data: DataFile, site: LinearSite, floats: ir.DataType) -> ir.ExternalTensor:
    """Multiply by one initializer ``STEM.weight_t``, W^T (K, N), and return it."""
    import onnx_ir as ir

    tensor = data.reserve(f"{site.stem}.weight_t", floats, (site.width, site.height))
    weight = add_initializer(model, tensor)
    node = ir.node(
        "MatMul",
        [site.node.inputs[0], weight],
        name=f"{site.stem}/MatMul",
        metadata_props={WEIGHT: ",".join(site.names)},
    )
    replace_node(model, site.node, [node])
    return tensor


def keep_tied_head(site: LinearSite) -> None:
    """Leave a tied head as it is: it transposes the embedding's table, so that the table is stored once."""
    site.node.name = f"{site.stem}/MatMul"
    site.node.metadata_props[WEIGHT] = ",".join(site.names)
