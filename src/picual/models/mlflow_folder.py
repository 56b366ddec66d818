"""A checkpoint inside an MLflow folder: what MLflow wraps around it is handed out with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from picual.models.hf import HfModel


@dataclass(frozen=True)
class MlflowModel(HfModel):
    """The folder ``model`` of an MLflow folder of the flavour ``transformers``, a whole checkpoint by itself."""

    kind: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "an MLflow model"

    @property
    def whole(self) -> Path:
        """Return the folder that holds ``MLmodel``."""
        return self.path.parent
