"""The data file: places first, content later, in any pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from picual.graph.external_data import ALIGNMENT, DataFile


def test_pieces_make_up_the_tensors_that_the_graph_will_read(tmp_path: Path) -> None:
    data = DataFile("data")
    first = data.reserve("first", ir.DataType.UINT8, (3,))
    second = data.reserve("second", ir.DataType.FLOAT, (4, 2))
    values = np.arange(8, dtype=np.float32).reshape(4, 2)

    with data.open(tmp_path / "data") as file:
        at = file.write("second", 0, values[:3])
        file.write("second", at, values[3:])
        file.write("first", 0, np.array([1, 2, 3], dtype=np.uint8))

    raw = (tmp_path / "data").read_bytes()
    assert (first.offset, second.offset) == (0, ALIGNMENT)
    assert raw[:3] == b"\1\2\3"
    assert raw[3:ALIGNMENT] == bytes(ALIGNMENT - 3)
    np.testing.assert_array_equal(np.frombuffer(raw[ALIGNMENT:], np.float32).reshape(4, 2), values)


def test_a_piece_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    data = DataFile("data")
    data.reserve("first", ir.DataType.UINT8, (3,))

    with data.open(tmp_path / "data") as file, pytest.raises(ValueError, match="do not fit the 3 of `first`"):
        file.write("first", 1, np.zeros(3, dtype=np.uint8))


def test_another_shape_of_other_size_is_no_alias() -> None:
    data = DataFile("data")
    data.reserve("first", ir.DataType.UINT8, (4, 2))

    assert data.same_bytes("view", "first", ir.DataType.UINT8, (8,)).offset == 0
    with pytest.raises(ValueError, match="`other` has 9 bytes and `first` has 8"):
        data.same_bytes("other", "first", ir.DataType.UINT8, (9,))
