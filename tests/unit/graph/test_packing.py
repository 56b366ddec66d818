"""Gate and up projections as one linear: the same numbers from one product, or nothing is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from picual.graph.edits import sweep
from picual.graph.linears import linear_sites
from picual.graph.packing import pack_gates

ROWS, K = 6, 8
GATE, UP = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, K)).astype(np.float32)


def _mlp(*, up_first: bool = False, bias: bool = False, same_input: bool = True) -> ir.Model:
    """Return y = sigmoid(x G^T [+ b]) * (x U^T [+ b])."""
    float_ = ir.TensorType(ir.DataType.FLOAT)
    inputs = [ir.Value(name=name, shape=ir.Shape([2, "t", K]), type=float_) for name in ("x", "z")]
    initializers, products = [], {}
    nodes: list[ir.Node] = []

    def initializer(name: str, *shape: int) -> ir.Value:
        array = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
        value = ir.Value(name=name, shape=ir.Shape(shape), type=float_, const_value=ir.tensor(array, name=name))
        initializers.append(value)
        return value

    for stem in (UP, GATE) if up_first else (GATE, UP):
        turn = ir.node("Transpose", [initializer(f"{stem}.weight", ROWS, K)], {"perm": [1, 0]})
        read = inputs[0] if same_input or stem == GATE else inputs[1]
        nodes += [turn, ir.node("MatMul", [read, turn.outputs[0]])]
        if bias:
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], initializer(f"{stem}.bias", ROWS)]))
        products[stem] = nodes[-1].outputs[0]
        if stem == GATE:
            nodes.append(ir.node("Sigmoid", [products[stem]]))
            products[stem] = nodes[-1].outputs[0]
    nodes.append(ir.node("Mul", [products[GATE], products[UP]]))
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", float_, ir.Shape([2, "t", ROWS])
    graph = ir.Graph(inputs, [y], nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="test")
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, folder: Path) -> npt.NDArray[np.float32]:
    ir.save(model, folder / "model.onnx")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(["y"], {"x": X, "z": X[:, ::-1].copy()})[0]
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("up_first", [False, True])
def test_one_product_of_stacked_rows_gives_the_same_numbers(up_first: bool, bias: bool, tmp_path: Path) -> None:
    model = _mlp(up_first=up_first, bias=bias)
    expected = _run(model, tmp_path)

    pack_gates(model, lambda names: names == (f"{GATE}.weight", f"{UP}.weight"))
    sweep(model)

    (site,) = linear_sites(model)
    assert (site.stem, site.names) == ("model.layers.0.mlp.gate_up_proj", (f"{GATE}.weight", f"{UP}.weight"))
    assert (site.heights, site.width) == ((ROWS, ROWS), K)
    np.testing.assert_allclose(_run(model, tmp_path), expected, atol=1e-6)


@pytest.mark.parametrize(("alike", "fields"), [(False, {}), (True, {"same_input": False})])
def test_other_pairs_stay_as_they_are(alike: bool, fields: dict[str, Any]) -> None:
    model = _mlp(**fields)

    pack_gates(model, lambda _: alike)

    assert [site.names for site in linear_sites(model)] == [(f"{GATE}.weight",), (f"{UP}.weight",)]
