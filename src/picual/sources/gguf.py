"""One GGUF file, read with transformers and written as a checkpoint folder in float32.

A quantized GGUF is dequantized: its weights then lie on the grid of its quantization. Memory: the model in
float32, twice while a tensor is converted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _lazy
from picual.errors import PicualError, UnreadableModel
from picual.models import HfModel, Model
from picual.models.hf_loading import quiet
from picual.sources import checkpoint
from picual.sources.base import Fetched, Source
from picual.sources.digests import DigestMemory

MAGIC = b"GGUF"
LIBRARIES = ("transformers", "gguf")


@dataclass(frozen=True, kw_only=True)
class GgufSource:
    """A ``.gguf`` file on this machine."""

    file: Path
    digests: DigestMemory

    @property
    def fetches(self) -> bool:
        """Say yes: it is converted once, into the store."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what the conversion means."""
        return (f"{self.file.name}: weights dequantized to float32",)

    def key_parts(self) -> Mapping[str, Any]:
        """Return the file's digest and the versions of what reads it."""
        return {"gguf": self.digests.of(self.file), "libraries": versions()}

    def obstacles(self) -> Sequence[PicualError]:
        """Return that the file is no GGUF file, or what reading it lacks."""
        try:
            _require_gguf(self.file)
        except UnreadableModel as error:
            return [error]
        return missing()

    def locate(self) -> Fetched | None:
        """Return nothing: what was converted lies in the store."""
        return None

    def fetch(self, folder: Path) -> Model:
        """Convert the file."""
        model, tokenizer = load(self.file)
        checkpoint.save(model, tokenizer, folder)
        return HfModel(folder)


def versions() -> dict[str, str]:
    """Return the versions that decide what a GGUF file becomes."""
    return {name: _lazy.version_of(name) for name in LIBRARIES}


def load(file: Path) -> tuple[Any, Any]:
    """Return the network, in float32 and free of any quantizer, and the tokenizer of a GGUF file.

    Raises:
        UnreadableModel: It is no GGUF file, it is cut short, or of an architecture transformers cannot read.
    """
    _require_gguf(file)
    _lazy.need("gguf", extra="hf", by="a GGUF file")
    torch = _lazy.need("torch", extra="hf", by="a GGUF file")
    transformers = _lazy.need("transformers", extra="hf", by="a GGUF file")
    place, name = str(file.parent), file.name
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
            model = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    except (ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError, struct.error) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnreadableModel(
            f"transformers cannot read the GGUF file ({first})",
            where=str(file),
            hint="fetch the file again, or give the model's original safetensors folder",
        ) from error
    _forget_quantizer(model)
    return model, tokenizer


def missing() -> list[PicualError]:
    """Return the packages that reading a GGUF file takes and this machine lacks."""
    absent = [module for module in ("gguf", "torch", "transformers") if not _lazy.is_installed(module)]
    return [_lazy.missing(module, extra="hf", by="a GGUF file") for module in absent[:1]]


def _require_gguf(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(8)
    if len(start) < 8 or start[:4] != MAGIC:
        raise UnreadableModel(f"`{file.name}` is not a GGUF file", where=str(file), hint="fetch the file again")
    (version,) = struct.unpack("<I", start[4:])
    if version not in {2, 3}:
        raise UnreadableModel(
            f"`{file.name}` is GGUF version {version}; 2 and 3 are known",
            where=str(file),
            hint="convert it again with a current llama.cpp",
        )


def _forget_quantizer(model: Any) -> None:
    """Make the model a plain one: what was dequantized must not be saved as quantized."""
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


_: type[Source] = GgufSource
