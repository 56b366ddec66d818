"""The decoder of a GenAI folder in plain ONNX Runtime: logits at every position, and a cache that can branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import Refused, UnreadableModel
from picual.models.all_positions import with_all_positions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEEDED_BY = "an ONNX Runtime GenAI model"
ARRAY_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32",
}  # fmt: skip
DATA_FOLDER = "session.model_external_initializers_file_folder_path"
Cache = Mapping[str, Any]  # what a run remembers, by the name of the input that takes it


class Decoder:
    """One decoder, loaded. R: rows, T: tokens, S: tokens read before.

    Args:
        path: Of the graph.
        config: The model's part of ``genai_config.json``.
        threads: Inside one operator.
        adapter: Values of the inputs that an adapter fills, by name.

    Raises:
        Refused: The graph has no input that the adapter fills.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], threads: int, adapter: Mapping[str, Any] | None = None
    ) -> None:
        self._path = path
        self._adapter = dict(adapter or {})
        self._config = config["decoder"]
        self._session = _open(path, self._config, threads)
        self._inputs = self._session.get_inputs()
        optional = {item.name for item in self._session.get_overridable_initializers()}
        if foreign := sorted(set(self._adapter) - optional):
            raise Refused(
                f"the graph has no input `{foreign[0]}`, which the adapter fills",
                where=str(path),
                hint="export the model with this adapter again",
            )
        self._logits = str(self._config.get("outputs", {}).get("logits", "logits"))
        self._cache = self._cache_names()

    @property
    def remembers(self) -> bool:
        """Say whether a run can go on from another one's cache."""
        return bool(self._cache)

    def run(
        self, ids: npt.NDArray[np.int64], after: Cache | None = None, *, keep: bool = False
    ) -> tuple[npt.NDArray[np.float32], Cache]:
        """Return logits (R, T, vocabulary), and what the run remembers if it is to be kept.

        Args:
            ids: (R, T).
            after: What another run remembered. The runtime's attention takes one row then.
            keep: Whether this run is gone on from.

        Raises:
            Refused: The network has an input that nothing is known of, or gives the last logits alone.
        """
        import numpy as np

        past = after or {}
        read = next(iter(past.values())).shape[2] if past else 0  # S
        feed = {item.name: past[item.name] if item.name in past else self._input(item, ids, read)
                for item in self._inputs} | self._adapter  # fmt: skip
        kept = self._cache if keep else {}
        logits, *rest = self._session.run([self._logits, *kept.values()], feed)
        if logits.shape[1] != ids.shape[1]:
            raise Refused(
                f"the model gives logits at {logits.shape[1]} of {ids.shape[1]} positions",
                where=str(self._path),
                hint="export it without pruning the head",
            )
        return np.asarray(logits, dtype=np.float32), dict(zip(kept, rest, strict=True))

    def _cache_names(self) -> dict[str, str]:
        """Return the output that each cache input goes on from; none where the two do not match."""
        inputs, outputs = self._config.get("inputs", {}), self._config.get("outputs", {})
        patterns = [
            (
                str(inputs.get(f"past_{kind}_names", f"past_key_values.%d.{kind}")),
                str(outputs.get(f"present_{kind}_names", f"present.%d.{kind}")),
            )
            for kind in ("key", "value")
        ]
        layers = range(int(self._config.get("num_hidden_layers", 0)))
        names = {
            past.replace("%d", str(layer)): present.replace("%d", str(layer))
            for layer in layers
            for past, present in patterns
        }
        wide = [item.name for item in self._inputs if len(item.shape) == 4]
        given = {item.name for item in self._session.get_outputs()}
        return names if set(wide) == set(names) and set(names.values()) <= given else {}

    def _input(self, item: Any, ids: npt.NDArray[np.int64], read: int) -> npt.NDArray[Any]:
        """Return what an input gets that no cache fills."""
        import numpy as np

        inputs = self._config.get("inputs", {})
        dtype = np.dtype(ARRAY_TYPES.get(item.type, "float32"))
        rows, count = ids.shape
        if item.name == inputs.get("input_ids", "input_ids"):
            return ids.astype(dtype)
        if item.name == inputs.get("attention_mask", "attention_mask"):
            return np.ones((rows, read + count), dtype)
        if item.name == inputs.get("position_ids", "position_ids"):
            return np.tile(np.arange(read, read + count, dtype=dtype), (rows, 1))
        if len(item.shape) == 4:  # keys or values of one layer: (R, heads, 0, head size)
            return np.zeros((rows, *self._empty(item.shape)), dtype)
        raise Refused(
            f"the decoder has an input `{item.name}` of shape {item.shape}, which scoring has no value for",
            where=str(self._path),
            hint="export a plain decoder",
        )

    def _empty(self, shape: Sequence[Any]) -> tuple[int, int, int]:
        heads, size = shape[1], shape[3]
        return (
            heads if isinstance(heads, int) else int(self._config["num_key_value_heads"]),
            0,
            size if isinstance(size, int) else int(self._config["head_size"]),
        )


def unreadable(what: str, error: Exception, where: str) -> UnreadableModel:
    """Return the error of a file that ONNX Runtime does not load."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UnreadableModel(f"ONNX Runtime cannot load the {what} ({reason})", where=where, hint="export it again")


def open_graph(path: Path, providers: Sequence[str], threads: int, *, graph: bytes | None = None) -> Any:
    """Return the plain runtime's session of one ONNX file.

    Args:
        path: The file.
        providers: Wanted before the CPU; those that are not here are left out.
        threads: Inside one operator.
        graph: What to load in its place, with the same external data.

    Raises:
        UnreadableModel: The runtime does not load it.
    """
    onnxruntime = _lazy.need("onnxruntime", extra="cpu", by=NEEDED_BY)
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    if graph is not None:
        options.add_session_config_entry(DATA_FOLDER, str(path.parent))
    here = [
        name
        for name in onnxruntime.get_available_providers()
        if name.removesuffix("ExecutionProvider").lower() in providers
    ]
    try:
        return onnxruntime.InferenceSession(graph or path, options, providers=[*here, "CPUExecutionProvider"])
    except (
        native.Fail,
        native.InvalidProtobuf,
        native.InvalidGraph,
        native.NoSuchFile,
        native.RuntimeException,
    ) as error:
        raise unreadable("model", error, str(path)) from error


def _open(path: Path, decoder: Mapping[str, Any], threads: int) -> Any:
    wanted = [next(iter(entry)) for entry in decoder.get("session_options", {}).get("provider_options", [])]
    return open_graph(path, [name.lower() for name in wanted], threads, graph=with_all_positions(path))
