"""What flows between passes: references to model files on disk."""

from __future__ import annotations

from picual.models.base import Model, model_from_wire
from picual.models.hf import HfAdapter, HfModel
from picual.models.onnx import GenaiModel, OnnxModel
from picual.models.profile import Profile

KINDS: dict[str, type[Model]] = {kind.kind: kind for kind in (HfModel, HfAdapter, OnnxModel, GenaiModel)}

__all__ = [
    "KINDS",
    "GenaiModel",
    "HfAdapter",
    "HfModel",
    "Model",
    "OnnxModel",
    "Profile",
    "model_from_wire",
]
