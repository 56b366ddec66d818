"""Hugging Face checkpoints: a folder with ``config.json``, safetensors and a tokenizer; and LoRA adapters."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual.errors import UnreadableModel
from picual.models.base import Model, model_from_wire
from picual.models.profile import Profile
from picual.models.safetensors_file import TensorInfo, read_header

# Files that belong to the prompt contract and the licence: every pass hands them on unchanged.
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip


@dataclass(frozen=True)
class HfCheckpoint(Model):
    """A folder laid out in Hugging Face's way: what plain and quantized checkpoints have in common."""

    trust_remote_code: bool = False

    def to_wire(self, folder: Path | None = None, given: Model | None = None) -> dict[str, Any]:
        """Return the JSON form; trust travels with the reference."""
        wire = super().to_wire(folder, given)
        if wire["kind"] == self.kind and self.trust_remote_code:
            wire["trust_remote_code"] = True
        return wire

    @classmethod
    def from_parts(cls, wire: Mapping[str, Any], folder: Path, given: Model | None) -> HfCheckpoint:
        """Build the reference from its wire form."""
        return cls(folder / wire["path"], bool(wire.get("trust_remote_code", False)))

    def config(self) -> dict[str, Any]:
        """Return ``config.json``."""
        return read_json(self.path / "config.json")

    def tensors(self) -> dict[str, TensorInfo]:
        """Return every tensor of the checkpoint by name, from the headers alone.

        Raises:
            UnreadableModel: No safetensors here, a shard is missing or cut short.
        """
        return dict(_tensors(self.path, _stamp(self.path)))

    def weight_files(self) -> list[Path]:
        """Return the safetensors files, in order."""
        return weight_files(self.path)

    def companions(self) -> list[Path]:
        """Return the tokenizer, template and licence files that are here."""
        return [self.path / name for name in COMPANIONS if (self.path / name).is_file()]

    def profile(self) -> Profile:
        """Return the sizes that forecasts are made from."""
        try:
            return Profile.from_checkpoint(self.config(), self.tensors())
        except UnreadableModel as error:
            raise error.located(str(self.path / "config.json")) from error


@dataclass(frozen=True)
class HfModel(HfCheckpoint):
    """A checkpoint that ``transformers`` loads."""

    kind: ClassVar[str] = "hf"
    title: ClassVar[str] = "a Hugging Face model"


@dataclass(frozen=True)
class HfAdapter(Model):
    """A LoRA adapter in peft's format, and the model it was trained on; chains are adapters on adapters."""

    kind: ClassVar[str] = "hf-adapter"
    title: ClassVar[str] = "a LoRA adapter"

    base: HfCheckpoint | HfAdapter

    def to_wire(self, folder: Path | None = None, given: Model | None = None) -> dict[str, Any]:
        """Return the JSON form, base included."""
        wire = super().to_wire(folder, given)
        if wire["kind"] == self.kind:
            wire["base"] = self.base.to_wire(folder, given)
        return wire

    @classmethod
    def from_parts(cls, wire: Mapping[str, Any], folder: Path, given: Model | None) -> HfAdapter:
        """Build the reference from its wire form."""
        base = model_from_wire(wire["base"], folder, given)
        assert isinstance(base, HfCheckpoint | HfAdapter)
        return cls(folder / wire["path"], base)

    def adapter_config(self) -> dict[str, Any]:
        """Return ``adapter_config.json``."""
        return read_json(self.path / "adapter_config.json")

    def tensors(self) -> dict[str, TensorInfo]:
        """Return the adapter's own tensors by name."""
        return read_header(self.path / "adapter_model.safetensors")

    def root(self) -> HfCheckpoint:
        """Return the full model at the bottom of the chain: floats, or a quantizer's integers."""
        return self.base if isinstance(self.base, HfCheckpoint) else self.base.root()

    def chain(self) -> list[HfAdapter]:
        """Return the adapters in the order in which they apply, the first trained first."""
        below = [] if isinstance(self.base, HfCheckpoint) else self.base.chain()
        return [*below, self]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        UnreadableModel: The file is missing, not UTF-8 or not a JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableModel(
            f"`{file.name}` is missing", where=str(file.parent), hint="give a folder made by save_pretrained"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UnreadableModel(
            f"`{file.name}` is not readable JSON ({error})", where=str(file), hint="fetch the model again"
        ) from error
    if not isinstance(value, dict):
        raise UnreadableModel(f"`{file.name}` holds no JSON object", where=str(file), hint="fetch the model again")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint folder: those its index names, or the single one."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index)["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.is_file():
            raise UnreadableModel(
                f"`{file.name}` is missing",
                where=str(folder),
                hint="give a checkpoint with safetensors weights",
            )
    return files


@functools.lru_cache(maxsize=32)
def _tensors(folder: Path, _stamp: tuple[tuple[str, int, int], ...]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        found.update(read_header(file))
    return found


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = weight_files(folder)
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
