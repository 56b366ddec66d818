"""Quantized nodes read back through the runtime: what it multiplies by is what the codes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from picual.graph.edits import sweep
from picual.graph.embedding import replace_embedding
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT, embedding_site, linear_sites
from picual.graph.matmul_nbits import Format, add_table, replace_linear
from picual.numerics import blockwise

N, K = 24, 80  # with blocks of 32, three blocks, the last half full: an odd number of zero points


def _lookup_and_multiply() -> ir.Model:
    """Return y = x W^T and e = W[ids], W without a value."""
    float_, int_ = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
    x = ir.Value(name="x", shape=ir.Shape(["rows", K]), type=float_)
    ids = ir.Value(name="ids", shape=ir.Shape(["count"]), type=int_)
    weight = ir.Value(name="model.embed_tokens.weight", shape=ir.Shape([N, K]), type=float_)
    turn = ir.node("Transpose", [weight], {"perm": [1, 0]})
    multiply = ir.node("MatMul", [x, turn.outputs[0]])
    look_up = ir.node("Gather", [weight, ids])
    y, e = multiply.outputs[0], look_up.outputs[0]
    for value, name in ((y, "logits"), (e, "e")):
        value.name, value.type = name, float_
    y.shape, e.shape = ir.Shape(["rows", N]), ir.Shape(["count", K])
    graph = ir.Graph(
        [x, ids], [y, e], nodes=[look_up, turn, multiply], initializers=[weight],
        opset_imports={"": 21, "com.microsoft": 1}, name="test",
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


def _write(folder: Path, form: Format, blocks: blockwise.Blocks) -> ort.InferenceSession:
    model, data = _lookup_and_multiply(), DataFile("model.onnx.data")
    (site,) = linear_sites(model)
    gather = embedding_site(model)
    assert gather is not None
    table = add_table(model, data, site.stem, site.height, site.width, form, ir.DataType.FLOAT)
    replace_linear(model, site, table, accuracy_level=0)
    replace_embedding(model, data, gather, table)
    sweep(model)
    ir.save(model, folder / "model.onnx")
    with data.open(folder / "model.onnx.data") as file:
        file.write("lm_head.qweight", 0, blockwise.pack(blocks.codes, form.bits))
        file.write("lm_head.scales", 0, blocks.scales)
        if blocks.zero_points is not None:
            file.write("lm_head.zero_points", 0, blockwise.pack_zero_points(blocks.zero_points, form.bits))
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession) -> list[npt.NDArray[Any]]:
    feed = {"x": np.eye(K, dtype=np.float32), "ids": np.arange(N)}
    found: list[npt.NDArray[Any]] = session.run(["logits", "e"], feed)
    return found


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_runtime_reads_the_weights_that_the_codes_stand_for(
    bits: blockwise.Bits, block: int, symmetric: bool, tmp_path: Path
) -> None:
    weight = np.random.default_rng(1).normal(0.3, 1, (N, K)).astype(np.float32)
    blocks = blockwise.quantize(weight, bits=bits, block=block, symmetric=symmetric)

    by_identity, rows = _run(_write(tmp_path, Format(bits=bits, block=block, symmetric=symmetric), blocks))

    meant = blockwise.dequantize(blocks.codes, blocks.scales, blocks.zero_points, bits=bits, width=K)
    np.testing.assert_allclose(by_identity.T, meant, atol=1e-6)
    np.testing.assert_allclose(rows, meant, atol=1e-6)
    half = np.repeat(np.abs(blocks.scales), block, axis=1)[:, :K] / 2
    assert (np.abs(by_identity.T - weight) <= half * 1.001 + 1e-6).all()


def test_head_and_embedding_are_the_same_bytes(tmp_path: Path) -> None:
    blocks = blockwise.quantize(np.ones((N, K), np.float32), bits=4, block=16, symmetric=True)
    _write(tmp_path, Format(bits=4, block=16, symmetric=True), blocks)

    model = ir.load(tmp_path / "model.onnx")
    places = {name: v.const_value.offset for name, v in model.graph.initializers.items()
              if isinstance(v.const_value, ir.ExternalTensor)}  # fmt: skip

    assert places["lm_head.qweight"] == places["model.embed_tokens.rows"]
    assert set(places) == {"lm_head.qweight", "lm_head.scales", "model.embed_tokens.rows"}
    assert (tmp_path / "model.onnx.data").stat().st_size == N * K // 2 + N * (K // 16) * 4


def test_nodes_say_which_weights_they_hold(tmp_path: Path) -> None:
    blocks = blockwise.quantize(np.ones((N, K), np.float32), bits=4, block=32, symmetric=False)
    _write(tmp_path, Format(bits=4, block=32, symmetric=False), blocks)

    model = ir.load(tmp_path / "model.onnx")

    said = {node.op_type: node.metadata_props.get(WEIGHT) for node in model.graph}
    assert said == {
        "GatherBlockQuantized": "model.embed_tokens.weight", "Slice": None, "MatMulNBits": "lm_head.weight",
    }  # fmt: skip
