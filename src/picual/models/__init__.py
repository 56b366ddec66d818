"""What flows between passes: references to model files on disk."""

from __future__ import annotations

from picual.models.base import Model, model_from_wire
from picual.models.hf import HfAdapter, HfCheckpoint, HfModel
from picual.models.mlflow_folder import MlflowModel
from picual.models.onnx import GenaiModel, OnnxModel
from picual.models.profile import Profile
from picual.models.quantized import QuantizedHfModel, Stored

KINDS: dict[str, type[Model]] = {
    kind.kind: kind for kind in (HfModel, HfAdapter, QuantizedHfModel, MlflowModel, OnnxModel, GenaiModel)
}

__all__ = [
    "KINDS",
    "GenaiModel",
    "HfAdapter",
    "HfCheckpoint",
    "HfModel",
    "MlflowModel",
    "Model",
    "OnnxModel",
    "Profile",
    "QuantizedHfModel",
    "Stored",
    "model_from_wire",
]
