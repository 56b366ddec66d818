from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.errors import Refused
from picual.metrics.base import MetricContext
from picual.metrics.size import Size
from picual.models import GenaiModel, HfAdapter, HfModel, Model, OnnxModel


def files_of(folder: Path, sizes: dict[str, int]) -> Path:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(b"0" * size)
    return folder


def test_size_counts_graph_and_weights_and_nothing_else(tmp_path: Path) -> None:
    exported = files_of(tmp_path / "g", {"model.onnx": 1000, "model.onnx.data": 2_000_000, "tokenizer.json": 500})
    checkpoint = HfModel(files_of(tmp_path / "h", {"model.safetensors": 3000, "config.json": 10}))
    adapter = HfAdapter(files_of(tmp_path / "a", {"adapter_model.safetensors": 400, "x.json": 9}), checkpoint)
    second = HfAdapter(files_of(tmp_path / "b", {"adapter_model.safetensors": 50}), adapter)

    def size(model: Model) -> object:
        return Size().measure(model, MetricContext())["size_mb"]

    assert size(GenaiModel(exported)) == 2.001
    assert size(OnnxModel(exported / "model.onnx")) == 2.001
    assert size(checkpoint) == 0.003
    assert size(adapter) == 0.0034
    assert size(second) == 0.00345
    with pytest.raises(Refused, match="does not know the files"):
        size(Model(tmp_path))


def test_size_of_a_sharded_checkpoint_is_that_of_its_shards(tmp_path: Path) -> None:
    folder = files_of(tmp_path / "h", {"a.safetensors": 1000, "b.safetensors": 500, "left-over.safetensors": 9})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert Size().measure(HfModel(folder), MetricContext()) == {"size_mb": 0.0015, "files": 2}
