"""The node that keeps the last position: its logits are those of all positions, and without it they come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from picual.graph.last_position import keep_last_position
from picual.graph.linears import WEIGHT
from picual.models.all_positions import LAST_POSITION, gives_last_alone, with_all_positions

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)

MASK = np.ones((2, 5), dtype=np.int64)


def _head(says: str = "lm_head.weight") -> ir.Model:
    """Return logits = tanh(x W)."""
    float_ = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape([2, "t", 4]), type=float_)
    array = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    weight = ir.Value(name="w", shape=ir.Shape([4, 3]), type=float_, const_value=ir.tensor(array, name="w"))
    head = ir.node("MatMul", [x, weight], metadata_props={WEIGHT: says})
    cap = ir.node("Tanh", [head.outputs[0]])
    logits = cap.outputs[0]
    logits.name, logits.type, logits.shape = "logits", float_, ir.Shape([2, "t", 3])
    whole = ir.TensorType(ir.DataType.INT64)
    ids = ir.Value(name="input_ids", shape=ir.Shape([2, "t"]), type=whole)
    mask = ir.Value(name="attention_mask", shape=ir.Shape([2, "all"]), type=whole)
    graph = ir.Graph(
        [x, ids, mask], [logits], nodes=[head, cap], initializers=[weight], opset_imports={"": 21}, name="test"
    )
    return ir.Model(graph, ir_version=10)


def _run(model: Path | bytes, mask: npt.NDArray[np.int64] = MASK) -> npt.NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(
        None, {"x": X, "input_ids": np.zeros((2, 5), np.int64), "attention_mask": mask}
    )[0]
    assert all(one in (other, "t", "sequence_length")
               for one, other in zip(session.get_outputs()[0].shape, found.shape, strict=True))  # fmt: skip
    return found


def test_the_last_position_alone_and_back(tmp_path: Path) -> None:
    file, model = tmp_path / "model.onnx", _head()
    ir.save(model, file)
    everything = _run(file)
    assert with_all_positions(file) is None

    assert keep_last_position(model)
    ir.save(model, file)

    np.testing.assert_allclose(_run(file), everything[:, -1:], atol=1e-6)
    again = with_all_positions(file)
    assert again is not None
    np.testing.assert_array_equal(_run(again), everything)
    assert LAST_POSITION.encode() not in again


def test_last_token_of_a_padded_row_and_with_a_cache_before(tmp_path: Path) -> None:
    file, model = tmp_path / "model.onnx", _head()
    ir.save(model, file)
    everything = _run(file)
    keep_last_position(model)
    ir.save(model, file)

    padded = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    np.testing.assert_allclose(_run(file, padded)[:, 0], everything[[0, 1], [4, 2]], atol=1e-6)
    after_three = np.array([[1] * 8, [1] * 6 + [0, 0]])
    np.testing.assert_allclose(_run(file, after_three)[:, 0], everything[[0, 1], [4, 2]], atol=1e-6)


def test_a_graph_without_a_known_head_is_left_alone(tmp_path: Path) -> None:
    model = _head(says="another.weight")

    assert not keep_last_position(model)

    assert [node.op_type for node in model.graph] == ["MatMul", "Tanh"]


def test_an_empty_file_has_no_such_node(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()

    assert not gives_last_alone(tmp_path / "model.onnx")
