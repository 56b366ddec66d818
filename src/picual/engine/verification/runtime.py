"""Plain ONNX Runtime on one graph with a decoder's external data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import UnreadableModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPINNING = "session.intra_op.allow_spinning"
DATA_FOLDER = "session.model_external_initializers_file_folder_path"
ARRAY_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32",
}  # fmt: skip


class Session:
    """One graph in ONNX Runtime.

    Args:
        graph: With external data beside ``file``.
        file: The ``.onnx`` file that the graph comes from.
        threads: Of the session.
    """

    def __init__(self, graph: bytes, file: Path, *, threads: int) -> None:
        onnxruntime = _lazy.need("onnxruntime", extra="cpu", by="verification")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        options.enable_cpu_mem_arena = False  # an output that is held would keep all of the arena
        options.add_session_config_entry(SPINNING, "0")  # torch works in between, on the same cores
        options.add_session_config_entry(DATA_FOLDER, str(file.parent))
        self._file = file
        self._failures: tuple[type[Exception], ...] = _failures()
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise self._unusable("load", error) from error

    def run(
        self, names: Sequence[str], ids: npt.NDArray[np.int64], values: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Return outputs for one row of token ids (T) with nothing before it.

        Args:
            names: Of the outputs.
            ids: (T).
            values: Of inputs that ids do not say, and of those that may be left out.
        """
        feed = {item.name: _fed(item, ids, values) for item in self._session.get_inputs()}
        optional = {item.name for item in self._session.get_overridable_initializers()}
        feed |= {name: values[name] for name in optional & set(values)}
        try:
            found: list[npt.NDArray[Any]] = self._session.run(list(names), feed)
        except self._failures as error:
            raise self._unusable("run", error) from error
        return found

    def _unusable(self, verb: str, error: Exception) -> UnreadableModel:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return UnreadableModel(f"ONNX Runtime cannot {verb} the model ({reason})", where=str(self._file))


def _fed(item: Any, ids: npt.NDArray[np.int64], values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return what one input gets."""
    import numpy as np

    if item.name in values:
        return values[item.name]
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
