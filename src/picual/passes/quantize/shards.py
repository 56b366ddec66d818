"""Writes a quantized checkpoint: a file for each decoder layer and one for the rest, each whole or not there.

A file that an interrupted run of the same inputs has finished is kept; so a kill costs one layer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from picual import _atomic
from picual.errors import UnreadableModel
from picual.graph.checkpoint import Checkpoint
from picual.models import HfModel, QuantizedHfModel, Stored
from picual.models.layout import HEAD, TensorSlice, is_tied
from picual.models.quantized import CODES, FILE, SCALES, VERSION, ZERO_POINTS
from picual.models.quantized_weights import StoredWeight, weight_among
from picual.models.safetensors_file import SafetensorsWriter, TensorInfo, read_header, read_pieces
from picual.numerics.block_sizes import blocks_in

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from picual.numerics.blockwise import Blocks


NONE: Mapping[str, npt.NDArray[np.float32]] = {}


@dataclass(frozen=True)
class Shard:
    """One file: weights that become integers, and tensors that go over as they are."""

    file: str
    quantized: tuple[str, ...]
    kept: tuple[str, ...]


def shards_of(model: HfModel, stored: Mapping[str, Stored]) -> tuple[Shard, ...]:
    """Return the files of the result: layers in their order, the rest last."""
    tensors = model.tensors()
    tied = is_tied(tensors, model.config())
    homes: dict[str, list[str]] = {}
    for name in tensors:
        if name == HEAD and tied:
            continue  # a copy of the embedding
        match = re.search(r"\.layers\.(\d+)\.|\.h\.(\d+)\.", name)
        number = next((int(one) for one in match.groups() if one), 0) if match else None
        file = "rest.safetensors" if number is None else f"layer-{number:05}.safetensors"
        homes.setdefault(file, []).append(name)
    return tuple(
        Shard(file, tuple(n for n in names if n in stored), tuple(n for n in names if n not in stored))
        for file, names in sorted(homes.items())
    )


class ShardWriter:
    """Finished files in a scratch folder, and the result made of them.

    Args:
        model: The checkpoint.
        stored: How each weight to be quantized is stored.
        scratch: Outlives a kill.
        inputs: Digest of all that decides the bytes.
    """

    def __init__(self, model: HfModel, stored: Mapping[str, Stored], scratch: Path, inputs: str) -> None:
        self._model, self._stored, self._scratch, self._inputs = model, stored, scratch, inputs
        self._tensors = model.tensors()
        self.shards = shards_of(model, stored)

    def is_done(self, shard: Shard) -> bool:
        """Say whether an interrupted run has left this file whole."""
        file, record = self._scratch / shard.file, self._record(shard)
        if not (record.exists() and file.exists()):
            return False
        said = json.loads(record.read_text(encoding="utf-8"))
        return bool(said == {"inputs": self._inputs, "bytes": file.stat().st_size})

    def write(
        self, shard: Shard, blocks: Callable[[str], Blocks], floats: Mapping[str, npt.NDArray[np.float32]] = NONE
    ) -> None:
        """Write one file.

        Args:
            shard: Which.
            blocks: Gives the integers of a weight by name.
            floats: Tensors that stay floats and have other values than in the checkpoint; they are stored as
                float32, so that what was moved into other weights is undone to its last bits.
        """
        record = self._record(shard)
        record.unlink(missing_ok=True)
        declared = [
            (name, "F32" if name in floats else self._tensors[name].dtype, self._tensors[name].shape)
            for name in shard.kept
        ]
        for name in shard.quantized:
            declared += stored_parts(name, self._stored[name])
        held: dict[str, Blocks] = {}
        with SafetensorsWriter(self._scratch / shard.file, declared) as writer:
            for part in writer.names:
                if part in floats:
                    writer.append(part, [_bytes(floats[part].astype("<f4"))])
                else:
                    writer.append(part, self._content(part, blocks, held))
        _atomic.write_json(record, {"inputs": self._inputs, "bytes": (self._scratch / shard.file).stat().st_size})

    def finished(self, shard: Shard, name: str) -> StoredWeight:
        """Return a weight of a finished file."""
        return weight_among(read_header(self._scratch / shard.file), name, self._stored[name])

    def changed(self, shard: Shard) -> dict[str, npt.NDArray[np.float32]]:
        """Return the tensors of a finished file that stayed floats and are not the checkpoint's."""
        import numpy as np

        found = read_header(self._scratch / shard.file)
        return {
            name: np.fromfile(found[name].file, "<f4", found[name].count, offset=found[name].offset)
            for name in shard.kept
            if found[name].dtype == "F32" and _content(found[name]) != _content(self._tensors[name])
        }

    def _content(
        self, part: str, blocks: Callable[[str], Blocks], held: dict[str, Blocks]
    ) -> Iterable[bytes | memoryview]:
        name, _, kind = part.rpartition(".")
        if name not in self._stored:
            return read_pieces(self._tensors[part])
        if name not in held:
            held[name] = blocks(name)
        return [_bytes(_array(held[name], kind, self._stored[name].bits))]

    def _record(self, shard: Shard) -> Path:
        return self._scratch / f"{shard.file}.done.json"

    def place(self, folder: Path, method: str) -> QuantizedHfModel:
        """Put the finished files and their description into ``folder``."""
        for shard in self.shards:
            _link(self._scratch / shard.file, folder / shard.file)
        weights = {name: how.to_wire() for name, how in self._stored.items()}
        files = [shard.file for shard in self.shards]
        _atomic.write_json(
            folder / FILE, {"version": VERSION, "method": method, "files": files, "weights": weights}
        )
        config = {**self._model.config(), "quantization_config": {"quant_method": "picual"}}
        _atomic.write_json(folder / "config.json", config)
        for file in self._model.companions():
            shutil.copyfile(file, folder / file.name)
        if self._model.trust_remote_code:
            for code in sorted(self._model.path.glob("*.py")):
                shutil.copyfile(code, folder / code.name)
        return QuantizedHfModel(folder, self._model.trust_remote_code)


def stored_parts(name: str, how: Stored) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, dtype and shape of each stored part of a quantized weight."""
    height, width = how.shape
    count = blocks_in(width, how.block)
    parts: list[tuple[str, str, tuple[int, ...]]] = [
        (f"{name}.{CODES}", "U8", (height, count * how.block * how.bits // 8)),
        (f"{name}.{SCALES}", "F32", (height, count)),
    ]
    if not how.symmetric:
        parts.append((f"{name}.{ZERO_POINTS}", "U8", (height, -(-count * how.bits // 8))))
    return parts


def _content(tensor: TensorInfo) -> bytes:
    return b"".join(read_pieces(tensor))


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return memoryview(array.reshape(-1).view("u1").data)


def _array(blocks: Blocks, kind: str, bits: int) -> npt.NDArray[np.generic]:
    """Return one stored part of a weight."""
    import numpy as np

    from picual.numerics import blockwise

    if kind == CODES:
        return np.ascontiguousarray(blockwise.pack(blocks.codes, bits)).reshape(len(blocks.codes), -1)
    if kind == SCALES:
        return np.ascontiguousarray(blocks.scales, dtype="<f4")
    assert blocks.zero_points is not None
    return np.ascontiguousarray(blockwise.pack_zero_points(blocks.zero_points, bits))


def _link(file: Path, goal: Path) -> None:
    """Give the finished file its second name in the result; where links are not possible, copy it."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copyfile(file, goal)


def weight_of(model: HfModel, name: str) -> npt.NDArray[np.float32]:
    """Return one weight of the checkpoint, whole, in float32.

    Raises:
        UnreadableModel: It holds a number that is not finite.
    """
    import numpy as np

    checkpoint = Checkpoint(model)
    height = model.tensors()[name].shape[0]
    array = checkpoint.rows([TensorSlice(name, 0, height)], 0, height)
    if not np.isfinite(array).all():
        raise UnreadableModel(
            f"`{name}` holds a weight that is not a number or is infinite",
            where=str(model.path),
            hint="check the training that made it",
        )
    return np.array(array)  # its own memory: the file's pages are not ours to change
