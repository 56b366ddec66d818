"""Linear layers as ``com.microsoft::MatMulNBits``: blocks of small integers, multiplied as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from picual.graph.edits import add_initializer, replace_node
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT, LinearSite
from picual.numerics.block_sizes import Format, blocks_in

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Table:
    """One matrix (N, K) in blocks, as initializers of a graph.

    ``packed`` is (N, B, block * bits / 8), ``scales`` (N, B), ``zero_points`` (N, ceil(B * bits / 8)).
    """

    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    format: Format
    height: int
    width: int

    @property
    def blocks(self) -> int:
        """B."""
        return blocks_in(self.width, self.format.block)

    @property
    def inputs(self) -> list[ir.Value]:
        """The initializers, in the order of the node's inputs."""
        return [value for value in (self.packed, self.scales, self.zero_points) if value is not None]


def add_table(
    model: ir.Model, data: DataFile, stem: str, height: int, width: int, form: Format, floats: ir.DataType
) -> Table:
    """Reserve places for a matrix and add its initializers, ``STEM.qweight`` and so on.

    Args:
        model: Whose graph gets them.
        data: Where they will lie.
        stem: Name of the layer.
        height: N.
        width: K.
        form: How it is stored.
        floats: Type of the scales; it must be that of the activations.
    """
    import onnx_ir as ir

    blocks, bits = blocks_in(width, form.block), form.bits
    bytes_ = ir.DataType.UINT8
    shapes = [
        ("qweight", bytes_, (height, blocks, form.block * bits // 8)),
        ("scales", floats, (height, blocks)),
        ("zero_points", bytes_, (height, -(-blocks * bits // 8))),
    ]
    values = [
        add_initializer(model, data.reserve(f"{stem}.{part}", dtype, shape))
        for part, dtype, shape in shapes[: 2 if form.symmetric else 3]
    ]
    return Table(values[0], values[1], None if form.symmetric else values[2], form, height, width)


def replace_linear(model: ir.Model, site: LinearSite, table: Table, *, accuracy_level: int) -> None:
    """Put a ``MatMulNBits`` in the place of a linear layer.

    Args:
        model: Whose graph it is.
        site: The layer.
        table: Its weights.
        accuracy_level: 4 multiplies with activations rounded to int8 per block, 0 with floats.
    """
    import onnx_ir as ir

    attributes: dict[str, int] = {
        "K": table.width, "N": table.height, "bits": table.format.bits, "block_size": table.format.block,
        "accuracy_level": accuracy_level,
    }  # fmt: skip
    node = ir.node(
        "MatMulNBits",
        [site.node.inputs[0], *table.inputs],
        attributes,
        domain=DOMAIN,
        name=f"{site.stem}/MatMulNBits",
        metadata_props={WEIGHT: ",".join(site.names)},
    )
    replace_node(model, site.node, [node])
