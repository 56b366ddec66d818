"""Quantized checkpoints in Picual's own form: the integers, scales and zero points that a quantizer chose.

A folder laid out like any other checkpoint, but a quantized weight W lies in it as ``W.codes`` (bytes, N rows),
``W.scales`` (float32, N x B) and, unless it is symmetric, ``W.zero_points`` (bytes, N rows), packed as
``numerics.blockwise`` says. ``quantization.json`` names the files, those weights and how each is stored; there is
no index under the name that other tools look for, since they would skip what they do not know and go on with
random weights. A tied head is stored once, under the embedding's name. Other forms (ONNX, compressed-tensors) are
exports of this one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from picual.errors import UnreadableModel
from picual.models.hf import HfCheckpoint, read_json
from picual.models.profile import Profile
from picual.models.safetensors_file import TensorInfo, read_header

FILE = "quantization.json"
VERSION = 1
CODES, SCALES, ZERO_POINTS = "codes", "scales", "zero_points"
DTYPE = "blocks"  # of a quantized weight, as ``tensors`` says it


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How one weight (N, K) is stored."""

    bits: int
    block: int
    symmetric: bool
    shape: tuple[int, int]

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Stored:
        """Rebuild the value from its JSON form."""
        height, width = wire["shape"]
        return cls(
            bits=int(wire["bits"]), block=int(wire["block"]), symmetric=bool(wire["symmetric"]),
            shape=(int(height), int(width)),
        )  # fmt: skip


@dataclass(frozen=True)
class QuantizedHfModel(HfCheckpoint):
    """A checkpoint whose linear weights are blocks of small integers."""

    kind: ClassVar[str] = "hf-quantized"
    title: ClassVar[str] = "a quantized Hugging Face model"

    def config(self) -> dict[str, Any]:
        """Return ``config.json`` without the mark that keeps other tools from reading the weights as floats."""
        return {key: value for key, value in super().config().items() if key != "quantization_config"}

    def method(self) -> str:
        """Return the name of the pass that chose the integers."""
        return str(self._description().get("method", ""))

    def stored(self) -> dict[str, Stored]:
        """Return how each quantized weight is stored, by its name in the checkpoint.

        Raises:
            UnreadableModel: ``quantization.json`` is missing or of another version.
        """
        try:
            return {name: Stored.from_wire(wire) for name, wire in self._description()["weights"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableModel(
                f"`{FILE}` is not as Picual writes it ({error})", where=str(self.path), hint="quantize again"
            ) from error

    def parts(self) -> dict[str, TensorInfo]:
        """Return every stored tensor by its own name, such as ``lm_head.weight.scales``."""
        found: dict[str, TensorInfo] = {}
        for file in self.weight_files():
            found |= _header(file, file.stat().st_size, file.stat().st_mtime_ns)
        return found

    def weight_files(self) -> list[Path]:
        """Return the safetensors files, in order.

        Raises:
            UnreadableModel: One is missing.
        """
        files = [self.path / name for name in self._description().get("files", ())]
        if lost := next((file for file in files if not file.is_file()), None):
            raise UnreadableModel(f"`{lost.name}` is missing", where=str(self.path), hint="quantize again")
        return files

    def tensors(self) -> dict[str, TensorInfo]:
        """Return every weight by name with its logical shape; a quantized one has the dtype ``blocks``.

        Raises:
            UnreadableModel: A part of a quantized weight is missing.
        """
        parts, stored = self.parts(), self.stored()
        found = {name: info for name, info in parts.items() if name.rpartition(".")[0] not in stored}
        for name, how in stored.items():
            codes = parts.get(f"{name}.{CODES}")
            if codes is None or f"{name}.{SCALES}" not in parts:
                raise UnreadableModel(
                    f"`{name}` lacks its codes or scales", where=str(self.path), hint="quantize again"
                )
            found[name] = TensorInfo(name, DTYPE, how.shape, codes.file, codes.offset, codes.nbytes)
        return found

    def profile(self) -> Profile:
        """Return the sizes that forecasts are made from, those of the integers apart."""
        parts, stored = self.parts(), self.stored()
        integers = sum(info.nbytes for name, info in parts.items() if name.rpartition(".")[0] in stored)
        return replace(super().profile(), bytes=sum(info.nbytes for info in parts.values()), quantized=integers)

    def _description(self) -> dict[str, Any]:
        file = self.path / FILE
        said = _read(file, file.stat().st_mtime_ns if file.is_file() else 0)
        if said.get("version") != VERSION:
            raise UnreadableModel(
                f"`{FILE}` is of version {said.get('version')}; this Picual reads {VERSION}",
                where=str(self.path),
                hint="quantize again, or update Picual",
            )
        return said


@functools.lru_cache(maxsize=256)
def _header(file: Path, _size: int, _changed: int) -> dict[str, TensorInfo]:
    return read_header(file)


@functools.lru_cache(maxsize=16)
def _read(file: Path, _changed: int) -> dict[str, Any]:
    return read_json(file)
