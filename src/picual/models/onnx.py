"""ONNX models, and the folders that ONNX Runtime GenAI loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual.models.base import Model
from picual.models.hf import read_json

WEIGHED = ("*.onnx*", "adapters/*.onnx_adapter")  # files of a GenAI folder that hold graph and weights


@dataclass(frozen=True)
class OnnxModel(Model):
    """One ``.onnx`` file, with its external data beside it. ``path`` is the file."""

    kind: ClassVar[str] = "onnx"
    title: ClassVar[str] = "an ONNX model"


@dataclass(frozen=True)
class GenaiModel(Model):
    """A folder with ``genai_config.json``, the ONNX model and the tokenizer. ``path`` is the folder."""

    kind: ClassVar[str] = "genai"
    title: ClassVar[str] = "an ONNX Runtime GenAI model"

    def config(self) -> dict[str, Any]:
        """Return ``genai_config.json``."""
        return read_json(self.path / "genai_config.json")

    def decoder(self) -> Path:
        """Return the decoder's ``.onnx`` file."""
        return self.path / str(self.config()["model"]["decoder"].get("filename", "model.onnx"))

    def size(self) -> int:
        """Return the bytes of the graph and its weights: the sum of ``*.onnx*``, those of adapters too."""
        return sum(file.stat().st_size for pattern in WEIGHED for file in self.path.glob(pattern))
