"""What an adapter was trained on: which base, and which of its weights were held in 4 bits meanwhile.

``trained_on.json`` lies beside the adapter. An adapter from elsewhere has none, and nothing is known of its base.
A weight that was held in 4 bits is not the base's: the adapter learnt beside what 4 bits left of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from picual import _atomic, fingerprint
from picual.errors import UnreadableModel
from picual.models.hf import HfAdapter, HfCheckpoint, read_json
from picual.models.quantized import QuantizedHfModel
from picual.models.safetensors_file import read_pieces

FILE = "trained_on.json"
TAKEN_OFF = "loftq.safetensors"  # beside it: what was taken off weights before they were held
VERSION = 1
BLOCK = 64  # weights that share one scale
FORMATS = ("nf4", "fp4")
# Of a config: who wrote it and as what its weights were stored, which the weights say themselves.
NOT_OF_THE_NETWORK = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")

Format = Literal["nf4", "fp4"]


@dataclass(frozen=True, kw_only=True)
class FourBit:
    """How some weights of a base were held while its adapter was trained.

    Attributes:
        format: Which 16 values a weight could have.
        double_quant: Whether the scales of the blocks were held in 8 bits themselves.
        names: Of the weights, as the checkpoint has them.
        block: Weights that share one scale.
        taken_off: File with factors B and A, ``NAME.b`` and ``NAME.a``, of a product that was taken off a weight
            before it was held; None where nothing was.
    """

    format: Format
    double_quant: bool
    names: tuple[str, ...] = ()
    block: int = BLOCK
    taken_off: Path | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format": self.format, "block": self.block, "double_quant": self.double_quant,
            "names": sorted(self.names), "taken_off": None if self.taken_off is None else TAKEN_OFF,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any], folder: Path) -> FourBit:
        """Rebuild the value from its JSON form and the folder that it lies in.

        Raises:
            ValueError: It is of a kind that this version does not know.
        """
        if wire["format"] not in FORMATS or int(wire["block"]) != BLOCK:
            raise ValueError(f"the base was held as `{wire['format']}` in blocks of {wire['block']}")
        taken_off = None if wire.get("taken_off") is None else folder / TAKEN_OFF
        if taken_off is not None and not taken_off.is_file():
            raise ValueError(f"`{TAKEN_OFF}` is missing")
        return cls(
            format=cast("Format", wire["format"]), double_quant=bool(wire["double_quant"]),
            names=tuple(str(name) for name in wire["names"]), taken_off=taken_off,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedOn:
    """The base of a training: its digest, and what of it was held in 4 bits."""

    digest: str
    weights: FourBit | None

    def write(self, folder: Path) -> None:
        """Write the file into an adapter's folder."""
        held = None if self.weights is None else self.weights.to_wire()
        _atomic.write_json(folder / FILE, {"version": VERSION, "digest": self.digest, "weights": held})


def read(folder: Path) -> TrainedOn | None:
    """Return what an adapter's folder says, or None where it says nothing.

    Raises:
        UnreadableModel: The file is of another version, or not as Picual writes it.
    """
    if not (folder / FILE).is_file():
        return None
    said = read_json(folder / FILE)
    try:
        if said["version"] != VERSION:
            raise ValueError(f"it is of version {said['version']}; this Picual reads {VERSION}")
        held = None if said["weights"] is None else FourBit.from_wire(said["weights"], folder)
        return TrainedOn(str(said["digest"]), held)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableModel(
            f"`{FILE}` is not as this Picual writes it ({error})",
            where=str(folder),
            hint="train the adapter again, or update Picual",
        ) from error


def held_in_four_bits(adapters: Iterable[HfAdapter]) -> FourBit | None:
    """Return how the base of a chain of adapters was held, or None where it was whole.

    Raises:
        UnreadableModel: Two of them were trained on bases that were held in different ways.
    """
    said = [(adapter, found) for adapter in adapters if (found := read(adapter.path)) is not None]
    ways = {found.weights for _, found in said}
    if len(ways) > 1:
        raise UnreadableModel(
            "the adapters of this chain were trained on bases that were held in different ways",
            where=str(said[-1][0].path),
            hint="merge them one after the other",
        )
    return next(iter(ways), None)


def base_digest(model: HfCheckpoint) -> str:
    """Return the SHA-256 of a network's weights and config, whatever files they lie in (1 to 2 s a gigabyte)."""
    files = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in model.weight_files())
    config = {key: value for key, value in model.config().items() if key not in NOT_OF_THE_NETWORK}
    return fingerprint.digest([config, _weights(model, files)])


@functools.lru_cache(maxsize=16)
def _weights(model: HfCheckpoint, _stamp: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash every tensor by name, type, shape and bytes."""
    found = hashlib.sha256()
    tensors = model.parts() if isinstance(model, QuantizedHfModel) else model.tensors()
    for name, tensor in sorted(tensors.items()):
        found.update(fingerprint.canonical([name, tensor.dtype, list(tensor.shape)]))
        for piece in read_pieces(tensor):
            found.update(piece)
    return found.hexdigest()
