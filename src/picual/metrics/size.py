"""Bytes of the weights on disk, in 10^6 bytes.

What it measures: the sum of ``*.onnx*`` of an exported model (graph and weights), or of the safetensors files of
a checkpoint; an adapter counts with the model below it.
Cost: none, nothing is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual.errors import Refused
from picual.metrics.base import Metric, MetricContext
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model, OnnxModel
from picual.models.onnx import WEIGHED


@dataclass(frozen=True, kw_only=True)
class Size(Metric):
    """Size of the weights on disk."""

    name: ClassVar[str] = "size"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "size_mb"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "MB"
    extra: ClassVar[str] = ""
    cost: ClassVar[int] = 0
    of_file_sizes: ClassVar[bool] = True
    keys: ClassVar[tuple[str, ...]] = ("size_mb", "files")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``size_mb`` and the number of files."""
        files = counted_files(model)
        return {"size_mb": sum(file.stat().st_size for file in files) / 1e6, "files": len(files)}


def counted_files(model: Model) -> list[Path]:
    """Return the files that hold the model's graph and weights.

    Raises:
        Refused: A kind of model whose files are not known.
    """
    match model:
        case HfCheckpoint():
            return model.weight_files()
        case HfAdapter():
            return [*counted_files(model.base), *sorted(model.path.glob("*.safetensors"))]
        case GenaiModel():
            return sorted(file for pattern in WEIGHED for file in model.path.glob(pattern))
        case OnnxModel():
            return sorted(model.path.parent.glob("*.onnx*"))
    raise Refused(
        f"`size` does not know the files of {model.title}", where=str(model.path), hint="picual passes list"
    )
