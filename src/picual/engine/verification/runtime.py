"""Logits from plain ONNX Runtime, of a decoder's file or of its graph as changed for a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import UnreadableModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DATA_FOLDER = "session.model_external_initializers_file_folder_path"
ARRAY_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32",
}  # fmt: skip


class Runtime:
    """One decoder in one session.

    Args:
        file: The ``.onnx`` file.
        threads: Of the session.
        graph: What to load in its place, with the same external data.
    """

    def __init__(self, file: Path, *, threads: int, graph: bytes | None = None) -> None:
        onnxruntime = _lazy.need("onnxruntime", extra="cpu", by="verification")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        options.add_session_config_entry(DATA_FOLDER, str(file.parent))
        self._file = file
        self._failures: tuple[type[Exception], ...] = _failures()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(file) if graph is None else graph, options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise self._unusable("load", error) from error

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return logits (T, vocabulary) for one row of token ids (T) with nothing before it."""
        found = self._run(ids)
        if found.shape[:2] != (1, len(ids)):
            raise UnreadableModel(f"`{self._file.name}` gives logits of shape {found.shape} for {len(ids)} tokens")
        row: npt.NDArray[np.float32] = found[0]
        return row

    def last_logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return logits (vocabulary) after the last of one row of token ids (T)."""
        last: npt.NDArray[np.float32] = self._run(ids)[0, -1]
        return last

    def _run(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return logits (1, T or 1, vocabulary)."""
        import numpy as np

        try:
            found = self._session.run(["logits"], {i.name: _fed(i, ids) for i in self._session.get_inputs()})[0]
        except self._failures as error:
            raise self._unusable("run", error) from error
        return np.asarray(found, dtype=np.float32)

    def _unusable(self, verb: str, error: Exception) -> UnreadableModel:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return UnreadableModel(f"ONNX Runtime cannot {verb} the model ({reason})", where=str(self._file))


def _fed(item: Any, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return what one input of the decoder gets."""
    import numpy as np

    dtype = np.dtype(ARRAY_TYPES.get(item.type, "float32"))
    if item.name == "input_ids":
        return ids[None].astype(dtype)
    if item.name == "attention_mask":
        return np.ones((1, len(ids)), dtype)
    if item.name == "position_ids":
        return np.arange(len(ids), dtype=dtype)[None]
    # The cache: (1, heads, 0 tokens, head size), or whatever else has sizes only in the places that vary.
    return np.zeros(
        [size if isinstance(size, int) else int(axis == 0) for axis, size in enumerate(item.shape)], dtype
    )


def _failures() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    named = [getattr(native, name) for name in (*names, "RuntimeException", "EPFail", "NoModel")]
    return (*named, ValueError)  # the last for inputs that do not fit
