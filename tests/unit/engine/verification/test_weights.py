from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from picual.engine.verification.exported import Exported
from picual.models import GenaiModel
from picual.passes.base import WeightsExported
from picual.testing.tiny import Layout

INT4 = WeightsExported(precision="int4", block=32, symmetric=False, head="int8")
OUTPUT = "model.layers.{}.self_attn.o_proj"
NORM = "model.layers.1.input_layernorm.weight"


def promise(precision: str, *, block: int = 32, symmetric: bool = False, head: str = "int8") -> WeightsExported:
    return WeightsExported(
        precision=precision,
        block=block,
        symmetric=symmetric,
        head=head if precision in {"int4", "int8"} else "float",
    )


@pytest.mark.parametrize("layout", ["llama", "phi3", "qwen2", "qwen3", "mistral", "gemma"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_an_honest_int4_export_passes(failed: Any, exports: Any, layout: Layout, tied: bool) -> None:
    assert not failed(INT4, *exports(layout, tied=tied, precision="int4"))


@pytest.mark.parametrize("fields", [
    {"precision": "fp32"}, {"precision": "int8"}, {"precision": "int4", "head": "int4"},
    {"precision": "int4", "symmetric": True}, {"precision": "int4", "block": 64},
    {"precision": "int4", "block": 16},
])  # fmt: skip
@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_every_honest_choice_passes(failed: Any, exports: Any, layout: Layout, fields: dict[str, Any]) -> None:
    assert not failed(promise(**fields), *exports(layout, **fields))


@pytest.mark.parametrize("asked", [
    {"precision": "int8"}, {"precision": "int4", "head": "int4"}, {"precision": "int4", "symmetric": True},
    {"precision": "int4", "block": 64}, {"precision": "fp32"},
])  # fmt: skip
def test_another_choice_than_the_asked_one_fails(failed: Any, exports: Any, asked: dict[str, Any]) -> None:
    found = failed(promise(**asked), *exports(precision="int4"))
    assert set(found) & {"export-width", "export-head-width", "export-blocks"}


Change = Callable[[GenaiModel, Any, Any], None]


def swap_int4_weights(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    for part in ("qweight", "scales", "zero_points"):
        arrays: list[np.ndarray] = []
        for layer in (0, 1):
            edit_bytes(model, f"{OUTPUT.format(layer)}.{part}", lambda array, to=arrays: to.append(array.copy()))
        for layer in (0, 1):
            edit_bytes(
                model, f"{OUTPUT.format(layer)}.{part}", lambda array, new=arrays[1 - layer]: np.copyto(array, new)
            )


def shift_one_block(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    def change(array: np.ndarray) -> None:
        block = array[7, 1]
        low, high = block & 15, block >> 4
        array[7, 1] = np.where(low < 15, low + 1, low - 1) | np.where(high < 15, high + 1, high - 1) << 4

    edit_bytes(model, f"{OUTPUT.format(0)}.qweight", change)


def double_one_scale(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    edit_bytes(model, f"{OUTPUT.format(1)}.scales", lambda array: np.multiply(array[3, 0], 2, out=array[3, :1]))


def move_one_zero_point(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    edit_bytes(model, f"{OUTPUT.format(1)}.zero_points", lambda array: np.copyto(array[9], array[9] ^ 1))


def change_a_norm(model: GenaiModel, edit_bytes: Any, edit_graph: Any) -> None:
    def change(graph: ir.Model) -> None:
        value = graph.graph.initializers[NORM]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.001), name=NORM)

    edit_graph(model, change)


def leave_one_layer_in_float(model: GenaiModel, _edit_bytes: Any, edit_graph: Any) -> None:
    name = OUTPUT.format(0)
    holder = next(h for h in Exported(model.decoder()).linears if h.node.startswith(name))
    weight = np.ascontiguousarray(holder.matrix.rows(0, holder.matrix.height).T)

    def change(graph: ir.Model) -> None:
        old = next(node for node in graph.graph if str(node.name).startswith(name))
        value = ir.Value(
            name=f"{name}.weight", const_value=ir.tensor(weight), type=ir.TensorType(ir.DataType.FLOAT)
        )
        value.shape = ir.Shape(weight.shape)
        graph.graph.register_initializer(value)
        new = ir.node(
            "MatMul", [old.inputs[0], value], name=f"{name}/MatMul", metadata_props=dict(old.metadata_props)
        )
        ir.convenience.replace_nodes_and_values(graph.graph, old, [old], [new], old.outputs, new.outputs)

    edit_graph(model, change)


def rename(old: str, new: str) -> Change:
    def apply(model: GenaiModel, _edit_bytes: Any, edit_graph: Any) -> None:
        def change(graph: ir.Model) -> None:
            for node in graph.graph:
                said = node.metadata_props.get("picual.weight")
                if said and old in said:
                    node.metadata_props["picual.weight"] = said.replace(old, new)

        edit_graph(model, change)

    return apply


def exchange_gate_and_up(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    def change(array: np.ndarray) -> None:
        half = len(array) // 2
        array[:] = np.concatenate([array[half:], array[:half]])

    for part in ("qweight", "scales", "zero_points"):
        edit_bytes(model, f"model.layers.0.mlp.gate_up_proj.{part}", change)


def swap_rows(model: GenaiModel, edit_bytes: Any, _edit_graph: Any) -> None:
    def change(array: np.ndarray) -> None:
        array[[3, 4]] = array[[4, 3]]

    edit_bytes(model, "lm_head.qweight", change)


FIRST, SECOND = OUTPUT.format(0), OUTPUT.format(1)
FAULTS: dict[str, tuple[Change, str, str]] = {
    "two int4 weights swapped": (swap_int4_weights, "export-half-step", FIRST),
    "one block of codes off by one": (shift_one_block, "export-half-step", FIRST),
    "the scale of one block doubled": (double_one_scale, "export-half-step", SECOND),
    "one zero point off by one": (move_one_zero_point, "export-half-step", SECOND),
    "two rows of the embedding swapped": (swap_rows, "export-half-step", "model.embed_tokens"),
    "a norm changed": (change_a_norm, "export-norms-and-biases", NORM),
    "a layer left in float": (leave_one_layer_in_float, "export-width", FIRST),
    "a layer twice, another left out": (rename(FIRST, SECOND), "export-linears", f"missing: `{FIRST}"),
    "an unknown weight": (rename(FIRST, "model.layers.0.self_attn.x_proj"), "export-linears", "x_proj"),
    "key and value alike": (rename("v_proj.weight", "k_proj.weight"), "export-linears", "v_proj"),
    "gate and up exchanged": (exchange_gate_and_up, "export-half-step", "mlp.gate_proj"),
    "another embedding": (rename("model.embed_tokens", "model.norm"), "export-embedding", "embed_tokens"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_named(
    failed: Any, exports: Any, edit_bytes: Any, edit_graph: Any, fault: str
) -> None:
    source, model = exports(precision="int4")
    plant, check, named = FAULTS[fault]
    plant(model, edit_bytes, edit_graph)
    found = failed(INT4, source, model)
    assert check in found
    assert named in found[check]


def test_the_share_at_the_asked_width_is_measured(exports: Any, edit_bytes: Any, edit_graph: Any) -> None:
    from picual.engine.verification.checks import Bench
    from picual.engine.verification.task import verify

    source, model = exports(precision="int4")
    leave_one_layer_in_float(model, edit_bytes, edit_graph)
    (check,) = (check for check in verify(INT4, source, model, Bench()) if check.name == "export-width")
    body = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96)
    assert check.measured == pytest.approx(1 - 64 * 64 / body)


def test_truncated_data_are_a_failed_check_that_names_the_file(failed: Any, exports: Any) -> None:
    source, model = exports(precision="int4")
    data = model.path / "model.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    found = failed(INT4, source, model)
    assert found == {
        "export-data-complete": f"`model.onnx.data` is cut short: {len(whole) - 100} bytes of {len(whole)}"
    }
    data.unlink()
    assert failed(INT4, source, model) == {"export-data-complete": "`model.onnx.data` is missing"}


def test_a_truncated_graph_is_a_failed_check(failed: Any, exports: Any) -> None:
    source, model = exports(precision="int4")
    graph = model.decoder().read_bytes()
    model.decoder().write_bytes(graph[: len(graph) // 2])
    assert "`model.onnx` is no readable ONNX file" in failed(INT4, source, model)["readable"]


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_read_back_is_what_the_runtime_multiplies_by(exports: Any, bits: int) -> None:
    """Multiply by the identity through the runtime's own kernel: what comes out is W as it reads it."""
    _, model = exports(precision=f"int{bits}", accuracy_level=0)
    exported = Exported(model.decoder())
    graph = ir.load(model.decoder())
    for holder in exported.linears:
        node = next(node for node in graph.graph if node.name == holder.node)
        seen = alone(node, holder.matrix.width)
        np.testing.assert_allclose(seen, holder.matrix.rows(0, holder.matrix.height), atol=1e-6)


def alone(old: ir.Node, width: int) -> np.ndarray:
    """Return the weight (N, K) that one node multiplies by: its answer to the identity."""
    import onnxruntime

    floats = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["n", width]), type=floats)
    constants = []
    for value in old.inputs[1:]:
        assert value is not None
        assert value.const_value is not None
        tensor = ir.tensor(value.const_value.numpy())
        constants.append(ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=tensor))
    attributes = {key: attribute.value for key, attribute in old.attributes.items()}
    node = ir.node(old.op_type, [x, *constants], attributes, domain=old.domain)
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", floats, ir.Shape(["n", attributes["N"]])
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], [y], nodes=[node], initializers=constants, opset_imports=opsets, name="alone")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    seen: np.ndarray = session.run(["y"], {"x": np.eye(width, dtype=np.float32)})[0]
    return seen.T
