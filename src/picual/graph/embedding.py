"""The token embedding as ``com.microsoft::GatherBlockQuantized``: rows are dequantized as they are looked up.

A tied head and its embedding are one table: the codes appear under two names, in the shape each node wants,
and lie on the disk once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from picual.graph.edits import add_initializer, replace_node
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT
from picual.graph.matmul_nbits import DOMAIN, Table

if TYPE_CHECKING:
    import onnx_ir as ir


def replace_embedding(model: ir.Model, data: DataFile, gather: ir.Node, table: Table) -> None:
    """Look up rows of ``table`` where ``gather`` looked up rows of floats."""
    import onnx_ir as ir

    name = str(gather.inputs[0].name) if gather.inputs[0] is not None else ""
    stem = name.removesuffix(".weight")
    padded = table.blocks * table.format.block
    codes = add_initializer(
        model,
        data.same_bytes(
            f"{stem}.rows",
            str(table.packed.name),
            ir.DataType.UINT8,
            (table.height, padded * table.format.bits // 8),
        ),
    )
    attributes: dict[str, int] = {
        "bits": table.format.bits, "block_size": table.format.block, "gather_axis": 0, "quantize_axis": 1,
    }  # fmt: skip
    lookup = ir.node(
        "GatherBlockQuantized",
        [codes, gather.inputs[1], *table.inputs[1:]],
        attributes,
        domain=DOMAIN,
        name=f"{stem}/GatherBlockQuantized",
        metadata_props={WEIGHT: name},
    )
    replace_node(model, gather, [lookup] if padded == table.width else [lookup, *_cut(model, lookup, table.width)])


def _cut(model: ir.Model, lookup: ir.Node, width: int) -> list[ir.Node]:
    """Return nodes that cut the filling of the last block off the rows."""
    import numpy as np
    import onnx_ir as ir

    ends = []
    for part, number in (("start", 0), ("end", width), ("axis", -1)):
        tensor = ir.tensor(np.array([number], dtype=np.int64), name=f"{lookup.name}/{part}")
        value = ir.Value(
            name=tensor.name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
        )
        model.graph.register_initializer(value)
        ends.append(value)
    return [ir.node("Slice", [lookup.outputs[0], *ends], name=f"{lookup.name}/Slice")]
