"""A checkpoint written anew, shard by shard: most tensors as they are, some changed, a tensor in memory at a time.

Shards are made in the scratch folder and placed once all are whole; those that an interrupted run of the same
inputs has finished are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _atomic
from picual.models import HfCheckpoint
from picual.models.safetensors_file import BYTES, SafetensorsWriter, TensorInfo, read_pieces
from picual.passes.base import PassContext

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
Pieces = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class Part:
    """One tensor to write."""

    name: str
    source: TensorInfo  # where it comes from
    dtype: str  # as what it is stored
    is_changed: bool  # beyond its dtype

    @property
    def untouched(self) -> bool:
        """Say whether its bytes go over as they are."""
        return not self.is_changed and self.dtype == self.source.dtype


@dataclass(frozen=True)
class Shard:
    """One file to write, named like the base's."""

    file: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read, near enough for progress."""
        return sum(part.source.nbytes for part in self.parts)


def write(
    base: HfCheckpoint,
    shards: tuple[Shard, ...],
    inputs: str,
    content: Callable[[Part], Pieces],
    context: PassContext,
) -> None:
    """Write every shard and, where the base has one, the index; then all are in ``context.folder``.

    Args:
        base: Whose index says whether there is one.
        shards: What to write.
        inputs: Digest of all that decides the bytes: a finished shard of other inputs is not ours.
        content: Gives the bytes of a part that does not go over as it is.
        context: Of the pass.
    """
    total = sum(shard.nbytes for shard in shards)
    done = 0
    for shard in shards:
        context.progress(done, total, shard.file)
        _finish(shard, inputs, content, context.scratch)
        done += shard.nbytes
    for shard in shards:
        _place(context.scratch / shard.file, context.folder / shard.file)
    if (base.path / INDEX).exists() or len(shards) > 1:  # a quantized base of several files has no index
        _write_index(shards, context.folder)
    context.progress(total, total, "written")


def read(file: Path, name: str) -> torch.Tensor:
    """Return one tensor in memory of its own: the file's pages are not ours to change."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        found: torch.Tensor = tensors.get_tensor(name)
    return found.clone()


def rows(tensor: TensorInfo, elements: int) -> Iterator[torch.Tensor]:
    """Yield a matrix in pieces of so many rows that none has many more than ``elements``."""
    from safetensors import safe_open

    step = max(1, elements // tensor.shape[1])
    with safe_open(tensor.file, framework="pt") as tensors:
        matrix: Any = tensors.get_slice(tensor.name)
        for start in range(0, tensor.shape[0], step):
            yield matrix[start : start + step]


def raw(values: torch.Tensor, dtype: str) -> memoryview:
    """Return a tensor's bytes in a safetensors dtype, rounding once."""
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return memoryview(values.to(kinds[dtype]).contiguous().view(torch.uint8).numpy().reshape(-1).data)


def _finish(shard: Shard, inputs: str, content: Callable[[Part], Pieces], scratch: Path) -> None:
    """Write one shard, unless an interrupted run has left it whole."""
    file, record = scratch / shard.file, scratch / f"{shard.file}.done.json"
    if record.exists() and file.exists():
        said = json.loads(record.read_text(encoding="utf-8"))
        if said == {"inputs": inputs, "bytes": file.stat().st_size}:
            return
    record.unlink(missing_ok=True)
    parts = {part.name: part for part in shard.parts}
    declared = [(part.name, part.dtype, part.source.shape) for part in shard.parts]
    with SafetensorsWriter(file, declared) as writer:
        for name in writer.names:
            part = parts[name]
            writer.append(name, read_pieces(part.source) if part.untouched else content(part))
    _atomic.write_json(record, {"inputs": inputs, "bytes": file.stat().st_size})


def _place(file: Path, goal: Path) -> None:
    """Give the finished shard its second name in the result; where links are not possible, copy it."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copyfile(file, goal)


def _write_index(shards: tuple[Shard, ...], folder: Path) -> None:
    parts = [part for shard in shards for part in shard.parts]
    index = {
        "metadata": {"total_size": sum(part.source.count * BYTES[part.dtype] for part in parts)},
        "weight_map": {part.name: shard.file for shard in shards for part in shard.parts},
    }
    _atomic.write_json(folder / INDEX, index)
