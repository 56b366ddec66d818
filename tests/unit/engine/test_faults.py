"""Faults that a pass makes, each caught by the gate: exit 7, and no model in the output folder.

The faulty passes stand where a plug-in's would: in the table of passes. The gate is as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from picual import api
from picual.errors import NotVerified
from picual.executors.inline import InlineExecutor
from picual.models import GenaiModel, HfAdapter, HfModel, QuantizedHfModel
from picual.numerics import blockwise
from picual.passes import registry
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import Pass, PassContext
from picual.passes.export.genai import BuildGenai
from picual.passes.quantize.awq import Awq
from picual.testing.tiny import tiny_model

LAYER = "model.layers.0.mlp.down_proj"


@dataclass(frozen=True, kw_only=True)
class SwapTwo(MergeAdapter):
    """Merges, then swaps two weights of equal shape."""

    name = "swap-two"

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        made = super().run(model, context)
        file = made.path / "model.safetensors"
        tensors: dict[str, np.ndarray] = load_file(file)
        first, second = (f"model.layers.{layer}.self_attn.o_proj.weight" for layer in (0, 1))
        tensors[first], tensors[second] = tensors[second], tensors[first]
        save_file(tensors, file, metadata={"format": "pt"})
        return made


@dataclass(frozen=True, kw_only=True)
class LeaveOut(MergeAdapter):
    """Returns the base, whole and loadable, without the adapter."""

    name = "leave-out"

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        shutil.copytree(model.root().path, context.folder, dirs_exist_ok=True)
        return HfModel(context.folder)


@dataclass(frozen=True, kw_only=True)
class CutData(BuildGenai):
    """Exports, then loses the last bytes of the data file."""

    name = "cut-data"

    def run(self, model: HfModel, context: PassContext) -> GenaiModel:
        made = super().run(model, context)
        data = made.path / "model.onnx.data"
        with data.open("r+b") as stream:
            stream.truncate(data.stat().st_size - 4096)
        return made


@dataclass(frozen=True, kw_only=True)
class SkipLayer(BuildGenai):
    """Exports, then writes one layer as floats: the very values of its codes, so that every logit stays."""

    name = "skip-layer"

    def run(self, model: HfModel, context: PassContext) -> GenaiModel:
        made = super().run(model, context)
        graph = ir.load(made.decoder())
        node = next(
            one for one in graph.graph if one.op_type == "MatMulNBits" and LAYER in str(one.inputs[1].name)
        )
        codes, scales, zeros = (value.const_value.numpy() for value in node.inputs[1:4])
        width, block = node.attributes.get_int("K"), node.attributes.get_int("block_size")
        codes = blockwise.unpack(codes, 4).reshape(*scales.shape, block)
        zeros = blockwise.unpack_zero_points(zeros, 4, scales.shape[1])
        floats = blockwise.dequantize(codes, scales, zeros, bits=4, width=width)
        weight = ir.Value(name=f"{LAYER}.weight", const_value=ir.tensor(np.ascontiguousarray(floats.T)))
        graph.graph.register_initializer(weight)
        plain = ir.node("MatMul", [node.inputs[0], weight])
        ir.convenience.replace_nodes_and_values(
            graph.graph, node, [node], [plain], node.outputs, plain.outputs
        )  # fmt: skip
        ir.save(graph, made.decoder())
        return made


@dataclass(frozen=True, kw_only=True)
class ForgetNorm(Awq):
    """Scales and rounds, then puts a norm back that was to undo the scales."""

    name = "forget-norm"

    def run(self, model: HfModel, context: PassContext) -> QuantizedHfModel:
        made = super().run(model, context)
        name = "model.layers.0.post_attention_layernorm.weight"
        source, mine = model.tensors()[name], made.tensors()[name]
        with source.file.open("rb") as read, mine.file.open("r+b") as write:
            read.seek(source.offset)
            write.seek(mine.offset)
            write.write(read.read(source.nbytes))
        return made


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Pass[Any, Any]]], str]:
    """Return a function that puts a pass into the table of passes, as an entry point does."""

    def add(kind: type[Pass[Any, Any]]) -> str:
        monkeypatch.setitem(registry.BUILT_IN, kind.name, f"{__name__}:{kind.__name__}")
        load = registry.load
        monkeypatch.setattr(registry, "load", lambda name: kind if name == kind.name else load(name))
        return kind.name

    return add


@pytest.mark.parametrize(
    ("kind", "check"),
    [(SwapTwo, "merge-"), (LeaveOut, "merge-"), (CutData, "export-"), (SkipLayer, "export-width")],
)
def test_a_planted_fault_is_exit_7_and_leaves_no_model(
    tmp_path: Path, tiny_recipe: Any, plant: Any, kind: type[Pass[Any, Any]], check: str
) -> None:
    name = plant(kind)
    written = tiny_recipe(merge=name) if issubclass(kind, MergeAdapter) else tiny_recipe(export=name)

    with pytest.raises(NotVerified, match="did not pass verification") as caught:
        api.run(written, executor=InlineExecutor)

    evidence = json.loads(next((tmp_path / "out" / "run" / "evidence").iterdir()).read_text())
    failed = [found["name"] for found in evidence["checks"] if not found["passed"]]
    assert any(name.startswith(check) for name in failed), failed
    assert caught.value.exit_code == 7
    assert not (tmp_path / "out" / "model").exists()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdict"] == "NotVerified"


def test_a_scale_that_is_not_undone_is_exit_7(tmp_path: Path, plant: Any) -> None:
    model = tiny_model(tmp_path / "model")
    recipe = {
        "version": 1, "model": str(model.path), "passes": {plant(ForgetNorm): {"tokens": 1024}, "build-genai": {}},
        "metrics": {"size": {}}, "threads": 1, "output": str(tmp_path / "out"), "store": str(tmp_path / "store"),
    }  # fmt: skip
    with pytest.raises(NotVerified, match="scaled-columns") as caught:
        api.run(recipe, executor=InlineExecutor)
    assert caught.value.exit_code == 7
    assert not (tmp_path / "out" / "model").exists()
