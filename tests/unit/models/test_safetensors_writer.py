from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from picual.errors import UnreadableModel
from picual.models.safetensors_file import SafetensorsWriter, read_header, read_pieces

TENSORS = {
    "b.small": torch.arange(3, dtype=torch.int8),
    "a.half": torch.randn(2, 5).half(),
    "c.wide": torch.randn(4, 3),
    "é.name": torch.zeros(0, 4),
}
KINDS = {torch.int8: "I8", torch.float16: "F16", torch.float32: "F32"}


def write(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    declared = [(name, KINDS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    with SafetensorsWriter(file, declared) as writer:
        for name in writer.names:
            raw = tensors[name].numpy().tobytes()
            writer.append(name, [raw[:3], raw[3:]])


def test_the_library_reads_what_was_written_and_every_tensor_is_aligned(tmp_path: Path) -> None:
    write(tmp_path / "a", TENSORS)
    found = load_file(tmp_path / "a")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    for tensor in read_header(tmp_path / "a").values():
        assert tensor.nbytes == 0 or tensor.offset % (tensor.nbytes // tensor.count) == 0


def test_the_order_of_declaration_does_not_change_the_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", TENSORS)
    write(tmp_path / "b", dict(reversed(TENSORS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_tensor_out_of_turn_too_short_or_never_written_is_an_error(tmp_path: Path) -> None:
    declared = [("a", "F32", (2,)), ("b", "F32", (2,))]
    with (
        pytest.raises(ValueError, match="`b` was given, `a` is next"),
        SafetensorsWriter(tmp_path / "x", declared) as w,
    ):
        w.append("b", [bytes(8)])
    with (
        pytest.raises(ValueError, match="`a` has 4 bytes, 8 were declared"),
        SafetensorsWriter(tmp_path / "x", declared) as w,
    ):
        w.append("a", [bytes(4)])
    with (
        pytest.raises(ValueError, match="`b` was declared and never written"),
        SafetensorsWriter(tmp_path / "x", declared) as w,
    ):
        w.append("a", [bytes(8)])


def test_pieces_are_the_tensors_bytes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a")
    for name, info in read_header(tmp_path / "a").items():
        assert b"".join(read_pieces(info, piece=5)) == TENSORS[name].numpy().tobytes()


def test_a_file_that_shrank_since_its_header_was_read_is_named(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a")
    info = read_header(tmp_path / "a")["c.wide"]
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[: info.offset + 4])
    with pytest.raises(UnreadableModel, match=r"`a` is cut short in `c\.wide`"):
        list(read_pieces(info))
