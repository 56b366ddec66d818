"""Tensors of safetensors files, one at a time or a few rows at a time; whatever is wrong names its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.errors import UnreadableModel
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE = 1 << 21  # elements; in float64 a few such pieces stay under 100 MB


def read(file: Path, name: str) -> torch.Tensor:
    """Return one tensor.

    Raises:
        UnreadableModel: The file or the tensor cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, name, error) from error
    return tensor


def rows(file: Path, name: str, ranges: Iterator[slice]) -> Iterator[torch.Tensor]:
    """Yield the given rows of one tensor, a range at a time."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            part: Any = tensors.get_slice(name)
            for rows_wanted in ranges:
                yield part[rows_wanted]
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, name, error) from error


def ranges(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield ranges of the first axis that hold few enough elements to work on in float64."""
    count = 1
    for size in shape[1:]:
        count *= size
    step = max(1, ROWS_AT_ONCE // max(count, 1))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def same_bytes(left: TensorInfo, right: TensorInfo) -> bool:
    """Say whether two stored tensors hold the same bytes."""
    from picual.models.safetensors_file import read_pieces

    if left.nbytes != right.nbytes:
        return False
    return all(one == other for one, other in zip(read_pieces(left), read_pieces(right), strict=True))


def weight_of(tensors: Mapping[str, TensorInfo], name: str) -> torch.Tensor:
    """Return one tensor of a checkpoint by name."""
    return read(tensors[name].file, name)


def _unreadable(file: Path, name: str, error: Exception) -> UnreadableModel:
    return UnreadableModel(
        f"`{name}` of `{file.name}` cannot be read ({error})", where=str(file), hint="run the step again"
    )
