"""Faults planted in deployed adapters, each by editing files on the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from picual.engine.verification.checks import Bench
from picual.engine.verification.exported import Exported
from picual.engine.verification.source import Source
from picual.engine.verification.task import promise_from_wire, verify
from picual.hardware import Target
from picual.models import GenaiModel, HfAdapter, HfModel, QuantizedHfModel
from picual.models.adapter_files import adapters_of, arrays_of
from picual.passes.base import PassContext, Promise, PromptContractKept, RuntimeAgrees, WeightsExported
from picual.passes.export.adapter_files import write_adapter
from picual.passes.export.genai import BuildGenai
from picual.passes.quantize.rtn import Rtn
from picual.testing.tiny import Layout, tiny_model

Arrays = dict[str, npt.NDArray[Any]]
Deployed = tuple[HfAdapter, GenaiModel, tuple[Promise, ...]]


def context_in(folder: Path) -> PassContext:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return PassContext(folder / "out", folder / "scratch", target=Target(threads=1))


@pytest.fixture(scope="session")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, adapter_on: Callable[..., HfAdapter]
) -> Callable[..., Deployed]:
    """Quantize a tiny model, put an adapter on it and deploy both; hand out a copy that a test may break."""
    made: dict[str, Deployed] = {}

    def run(layout: Layout = "llama", **fields: Any) -> Deployed:
        key = repr((layout, sorted(fields.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("deployed")
            base = Rtn().run(tiny_model(folder / "float", layout=layout), context_in(folder / "rtn"))
            modules = ["qkv_proj", "o_proj"] if layout == "phi3" else ["q_proj", "up_proj"]
            adapter = adapter_on(base, folder / "adapter", target_modules=modules)
            other = adapter_on(base, folder / "other", seed=2, target_modules=["o_proj"])
            several = fields.pop("several", False)
            a_pass = BuildGenai(**fields, **({"adapters": {"other": str(other.path)}} if several else {}))  # type: ignore[arg-type]
            model = a_pass.run(adapter, context_in(folder / "made"))
            made[key] = adapter, model, a_pass.promises()
        adapter, model, promises = made[key]
        copy = tmp_path_factory.mktemp("copy") / "model"
        shutil.copytree(model.path, copy)
        return adapter, GenaiModel(copy), promises

    return run


def rewrite(model: GenaiModel, change: Callable[[Arrays], None], name: str = "adapter") -> None:
    """Change an adapter's file."""
    file = adapters_of(model.path)[name]
    arrays = arrays_of(file)
    change(arrays)
    file.unlink()
    write_adapter(file, arrays)


def findings(found: Deployed, kind: type[Promise]) -> dict[str, str]:
    adapter, model, promises = found
    (promise,) = [one for one in promises if isinstance(one, kind)]
    wire = json.loads(json.dumps(promise.to_wire()))
    checks = verify(promise_from_wire(wire), adapter, model, Bench())
    assert checks
    return {check.name: check.detail for check in checks if not check.passed}


@pytest.mark.parametrize("kind", [WeightsExported, RuntimeAgrees, PromptContractKept])
@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_an_honest_deployment_passes(deployed: Any, layout: Layout, kind: type[Promise]) -> None:
    assert not findings(deployed(layout, several=layout == "llama"), kind)


def test_each_adapter_is_run(deployed: Any) -> None:
    adapter, model, promises = deployed(several=True)
    checks = [check for promise in promises for check in verify(promise, adapter, model, Bench())]
    text = "\n".join(f"{check.name} {check.detail}" for check in checks)
    for name in ("adapter", "other"):
        assert f"runtime-tokens of built-in text, with adapter `{name}`" in text
        assert f"runtime-generates greedily, from a chat prompt, with adapter `{name}`" in text


def scaled(arrays: Arrays) -> None:
    for name in arrays:
        if name.endswith("lora_B"):
            arrays[name] *= 1.001


def one_number(arrays: Arrays) -> None:
    arrays["model.layers.1.self_attn.qkv_proj.lora_B"][1, 5] += 1e-3


def other_part(arrays: Arrays) -> None:
    name = "model.layers.0.mlp.gate_up_proj.lora_B"
    arrays[name] = np.roll(arrays[name], 96, axis=1)  # what belongs to `up` goes to `gate`


@pytest.mark.parametrize("change", [scaled, one_number, other_part])
def test_an_adapter_s_file_that_is_not_what_was_trained_fails(deployed: Any, change: Callable[..., None]) -> None:
    found = deployed()
    rewrite(found[1], change)
    assert set(findings(found, WeightsExported)) == {"adapter-delta"}


def test_adapters_that_were_swapped_fail(deployed: Any) -> None:
    found = deployed(several=True)
    files = adapters_of(found[1].path)
    one, other = (file.read_bytes() for file in files.values())
    for file, content in zip(files.values(), (other, one), strict=True):
        file.unlink()
        file.write_bytes(content)
    assert set(findings(found, WeightsExported)) == {"adapter-delta"}
    assert "runtime-logits" in findings(found, RuntimeAgrees)


def test_a_stronger_adapter_is_seen_by_the_runtime_too(deployed: Any) -> None:
    found = deployed()

    def stronger(arrays: Arrays) -> None:
        for name in arrays:
            if name.endswith("lora_B"):
                arrays[name] *= 1.1

    rewrite(found[1], stronger)
    assert "runtime-logits" in findings(found, RuntimeAgrees)


def test_a_layer_that_an_adapter_s_file_leaves_out_fails(deployed: Any) -> None:
    found = deployed()
    rewrite(found[1], lambda arrays: arrays.pop("model.layers.0.self_attn.qkv_proj.lora_A"))
    assert "adapter-delta" in findings(found, WeightsExported)


def test_values_that_no_layer_takes_fail(deployed: Any) -> None:
    found = deployed()
    rewrite(found[1], lambda arrays: arrays.update(odd=np.ones((2, 2), np.float32)))
    assert "no layer takes `odd`" in findings(found, WeightsExported)["adapter-inputs"]


def test_a_file_that_is_missing_or_was_not_asked_for_fails(deployed: Any) -> None:
    found = deployed()
    file = adapters_of(found[1].path)["adapter"]
    shutil.copy(file, file.with_name("more.onnx_adapter"))
    assert "`more`" in findings(found, WeightsExported)["adapter-files"]
    file.unlink()
    assert "`adapter`" in findings(found, WeightsExported)["adapter-files"]
    assert "is missing" in findings(found, RuntimeAgrees)["readable"]


def test_a_file_that_is_no_adapter_fails(deployed: Any) -> None:
    found = deployed()
    file = adapters_of(found[1].path)["adapter"]
    file.unlink()
    file.write_bytes(b"nothing of that sort")
    assert "no readable adapter file" in findings(found, WeightsExported)["readable"]


def edited(found: Deployed, change: Callable[[ir.Graph], None]) -> Deployed:
    graph = ir.load(found[1].decoder())
    change(graph.graph)
    ir.save(graph, found[1].decoder())
    return found


def test_an_update_of_another_layer_s_input_fails(deployed: Any) -> None:
    def change(graph: ir.Graph) -> None:
        nodes = {str(node.name): node for node in graph}
        here = nodes["model.layers.1.self_attn.qkv_proj.lora_A/MatMul"]
        here.replace_input_with(0, nodes["model.layers.0.self_attn.qkv_proj.lora_A/MatMul"].inputs[0])

    found = edited(deployed(), change)
    assert "no layer takes" in findings(found, WeightsExported)["adapter-inputs"]
    assert "runtime-logits" in findings(found, RuntimeAgrees)


def test_a_default_that_is_not_empty_fails(deployed: Any) -> None:
    def change(graph: ir.Graph) -> None:
        for part, shape in (("A", (64, 1)), ("B", (1, 128))):
            value = graph.initializers[f"model.layers.0.self_attn.qkv_proj.lora_{part}"]
            value.const_value = ir.tensor(np.ones(shape, np.float32), name=value.name)

    assert set(findings(edited(deployed(), change), WeightsExported)) == {"adapter-default"}


def test_the_base_s_integers_are_compared_as_ever(deployed: Any, edit_bytes: Callable[..., None]) -> None:
    found = deployed()

    def change(codes: npt.NDArray[Any]) -> None:
        codes[3, 0, 0] ^= 1

    edit_bytes(found[1], "model.layers.0.self_attn.o_proj.qweight", change)
    assert set(findings(found, WeightsExported)) == {"export-integers"}


def test_the_inputs_of_adapters_are_no_weights(deployed: Any) -> None:
    adapter, model, _ = deployed()
    root = adapter.root()
    assert isinstance(root, QuantizedHfModel | HfModel)
    exported = Exported(model.decoder())
    assert all(Source(root).placed(holder) for holder in exported.linears)
    assert len(exported.linears) == 2 * 4 + 1
