"""The weights of a checkpoint as float32 rows, read from mapped files a piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from picual.errors import Refused
from picual.models import HfCheckpoint, QuantizedHfModel
from picual.models.layout import TensorSlice
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import StoredWeight, open_weight
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Checkpoint:
    """Rows and columns of a checkpoint's tensors. Mapped pages are the system's to drop: they cost no memory."""

    def __init__(self, model: HfCheckpoint) -> None:
        self._model, self._tensors = model, model.tensors()

    def stored(self, name: str) -> StoredWeight | None:
        """Return a weight as the integers that a quantized checkpoint holds; None where it holds floats."""
        if not isinstance(self._model, QuantizedHfModel) or self._tensors[name].dtype != DTYPE:
            return None
        return open_weight(self._model, name)

    def shape(self, parts: Sequence[TensorSlice]) -> tuple[int, ...]:
        """Return the shape of the stacked ``parts``."""
        rest = self._tensors[parts[0].name].shape[1:]
        return (sum(part.stop - part.start for part in parts), *rest)

    def rows(self, parts: Sequence[TensorSlice], start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows ``start`` to ``stop`` of the stacked ``parts`` as float32."""
        import numpy as np

        pieces, first = [], 0
        for part in parts:
            height = part.stop - part.start
            low, high = max(start - first, 0), min(stop - first, height)
            if low < high:
                pieces.append(self._rows(part.name, part.start + low, part.start + high))
            first += height
        return _as_float32(np.concatenate(pieces) if len(pieces) > 1 else pieces[0], self._tensors[parts[0].name])

    def columns(self, parts: Sequence[TensorSlice], start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return columns ``start`` to ``stop`` of the stacked ``parts``, transposed, as float32."""
        import numpy as np

        pieces = [self._rows(part.name, part.start, part.stop)[:, start:stop].T for part in parts]
        return _as_float32(np.concatenate(pieces, axis=1), self._tensors[parts[0].name])

    def _rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        weight = self.stored(name)
        return self._mapped(name)[start:stop] if weight is None else weight.rows(start, stop)

    def _mapped(self, name: str) -> npt.NDArray[Any]:
        import numpy as np

        tensor = self._tensors[name]
        if tensor.dtype not in STORED:
            raise Refused(
                f"`{name}` is stored as {tensor.dtype}, which is no plain floating-point type",
                where=str(tensor.file),
                hint="give the unquantized checkpoint",
            )
        return np.memmap(tensor.file, STORED[tensor.dtype], "r", tensor.offset, tensor.shape or (1,))


def _as_float32(array: npt.NDArray[Any], tensor: TensorInfo) -> npt.NDArray[np.float32]:
    import numpy as np

    if tensor.dtype == "BF16":  # a bfloat16 is the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, dtype=np.float32)
