"""A plain ONNX file, run on random inputs of the shapes it asks for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from picual.errors import Refused
from picual.models.genai_decoder import open_graph
from picual.models.onnx import OnnxModel

if TYPE_CHECKING:
    import numpy.typing as npt

ARRAY_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class OnnxBatch:
    """One loaded graph with one batch of inputs. A graph's free sizes are the batch, then the length.

    A free size whose name speaks of the past is 0: nothing was read before.
    """

    def __init__(self, model: OnnxModel, *, batch_size: int, length: int, seed: int, threads: int) -> None:
        import numpy as np

        self._where = str(model.path)
        self._sizes = (batch_size, length)
        self._random = np.random.default_rng(seed)
        self._session: Any = open_graph(model.path, (), threads)
        self._feed = {item.name: self._values(item) for item in self._session.get_inputs()}

    def run(self) -> None:
        """Run the graph once and drop what comes out."""
        self._session.run(None, self._feed)

    def close(self) -> None:
        """Give the memory back."""
        self._session = None

    def _values(self, item: Any) -> npt.NDArray[Any]:
        import numpy as np

        if item.type not in ARRAY_TYPES:
            raise Refused(
                f"the graph's input `{item.name}` is a {item.type}, of which there is no random one",
                where=self._where,
                hint="leave the metric out for this model",
            )
        dtype = np.dtype(ARRAY_TYPES[item.type])
        shape = self._shape(item.shape)
        if "mask" in item.name:
            return np.ones(shape, dtype)
        if "position" in item.name and shape:
            return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
        if dtype.kind == "f":
            return self._random.standard_normal(shape).astype(dtype)
        return self._random.integers(0, 2, shape).astype(dtype)  # 0 and 1 are in every vocabulary

    def _shape(self, sizes: Sequence[Any]) -> tuple[int, ...]:
        return tuple(
            size if isinstance(size, int) else self._free(str(size or "").lower(), place)
            for place, size in enumerate(sizes)
        )

    def _free(self, name: str, place: int) -> int:
        batch_size, length = self._sizes
        if "batch" in name or (place == 0 and "seq" not in name and "len" not in name):
            return batch_size
        return 0 if name.startswith("past") and "+" not in name and "total" not in name else length
