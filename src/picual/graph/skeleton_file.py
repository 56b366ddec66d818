"""A skeleton as a file: what waits for a weight keeps its name, type and shape.

ONNX knows no initializer without a value, so each that waits is written as external data in a file that is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

LOCATION = "weights-to-come"


def write(model: ir.Model, file: Path) -> None:
    """Write a skeleton."""
    import onnx_ir as ir

    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None  # the graph's makers give every initializer a type and a shape
            assert isinstance(value.shape, ir.Shape)
            value.const_value = ir.ExternalTensor(
                LOCATION, None, None, dtype=value.dtype, shape=value.shape, name=name, base_dir=file.parent
            )
    file.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def read(file: Path) -> ir.Model:
    """Return a skeleton that was written; nothing but the graph library is loaded for it."""
    import onnx_ir as ir

    model = ir.load(file)
    for value in model.graph.initializers.values():
        held = value.const_value
        if isinstance(held, ir.ExternalTensor) and str(held.location) == LOCATION:
            value.const_value = None
    return model
