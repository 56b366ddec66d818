"""Constants of a graph on disk, as mapped arrays.

The graph library refuses data files that have a second name (hard links), which is how a store keeps its
files; so the bytes are mapped here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.errors import UnreadableModel

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


def array_of(value: ir.Value, folder: Path) -> npt.NDArray[Any]:
    """Return an initializer's content, read-only and mapped where it lies outside the graph.

    Args:
        value: An initializer with a value.
        folder: Where the graph's file is.

    Raises:
        UnreadableModel: The data file is missing or cut short.
    """
    import numpy as np
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None:
        raise UnreadableModel(f"`{value.name}` has no value", where=str(folder), hint="export the model again")
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    file = folder / str(tensor.location)
    shape = tuple(tensor.shape.numpy())
    try:
        mapped = np.memmap(file, tensor.dtype.numpy(), "r", tensor.offset or 0, shape or (1,))
    except (OSError, ValueError) as error:
        raise UnreadableModel(
            f"`{value.name}` is not all in `{file.name}` ({error})",
            where=str(folder),
            hint="export the model again",
        ) from error
    return mapped.reshape(shape)
