"""Scales that are not undone, and weights that stand for others, do not pass the gate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from picual.engine.verification.checks import Bench, Check
from picual.engine.verification.task import verify
from picual.models import HfModel, QuantizedHfModel
from picual.models.links import links_of
from picual.models.quantized_weights import open_weight
from picual.passes.base import PassContext, WeightsScaled
from picual.passes.quantize.awq import Awq
from picual.passes.quantize.rtn import Rtn
from picual.testing.tiny import Layout, tiny_model

Floats = npt.NDArray[np.float32]
Made = tuple[HfModel, QuantizedHfModel]
NORM, UP = "model.layers.0.post_attention_layernorm.weight", "model.layers.0.mlp.up_proj.weight"


def quantized(model: HfModel, root: Path, **fields: Any) -> QuantizedHfModel:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True)
    context = PassContext(folder=root / "out", scratch=root / "scratch", threads=1)
    return Awq(tokens=1024, **fields).run(model, context)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("scaled")
    model = tiny_model(root / "hf", kv_heads=4)
    return model, quantized(model, root / "awq")


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def faults(model: HfModel, broken: QuantizedHfModel) -> list[str]:
    return failed(verify(WeightsScaled(), model, QuantizedHfModel(broken.path), Bench()))


def changed(made: Made, folder: Path, part: str, change: Callable[[Floats], Floats]) -> QuantizedHfModel:
    """Copy the result with one of its float32 tensors changed."""
    shutil.copytree(made[1].path, folder)
    broken = QuantizedHfModel(folder)
    info = broken.parts()[part]
    assert info.dtype == "F32"
    with info.file.open("r+b") as stream:
        stream.seek(info.offset)
        values = np.frombuffer(stream.read(info.nbytes), "<f4").reshape(info.shape)
        stream.seek(info.offset)
        stream.write(np.ascontiguousarray(change(values), "<f4").tobytes())
    return broken


def vector(model: HfModel | QuantizedHfModel, name: str) -> Floats:
    info = model.tensors()[name]
    return np.fromfile(info.file, "<f4", info.count, offset=info.offset)


def row_scales(made: Made, name: str) -> Floats:
    """By what each row of a weight was divided, near enough, inputs' scales taken out by its norm."""
    model, result = made
    rows = open_weight(result, name).rows(0, model.tensors()[name].shape[0])
    source = vector(model, name).reshape(rows.shape) * (vector(model, NORM) / vector(result, NORM))
    scales: Floats = (source**2).sum(1) / (source * rows).sum(1)
    return scales


@pytest.mark.parametrize("layout", ["llama", "phi3", "gemma", "qwen2", "qwen3"])
def test_honest_scales_pass_in_every_layout(tmp_path: Path, layout: Layout) -> None:
    model = tiny_model(tmp_path / "hf", layout=layout)
    result = quantized(model, tmp_path / "awq")
    assert faults(model, result) == []
    norms = {link.writer.name for link in links_of(model.tensors(), model.config()) if "norm" in link.writer.name}
    assert len(norms) == 4
    assert any((vector(model, name) != vector(result, name)).any() for name in norms)


@pytest.mark.parametrize("bits", [2, 8])
def test_honest_scales_pass_at_every_width(made: Made, tmp_path: Path, bits: int) -> None:
    assert faults(made[0], quantized(made[0], tmp_path / "awq", bits=bits)) == []


def test_norm_that_was_not_divided_fails(made: Made, tmp_path: Path) -> None:
    assert faults(*made) == []
    broken = changed(made, tmp_path / "broken", NORM, lambda _: vector(made[0], NORM))
    assert "scaled-columns" in faults(made[0], broken)


def test_norm_that_was_divided_twice_fails(made: Made, tmp_path: Path) -> None:
    broken = changed(made, tmp_path / "broken", NORM, lambda norm: norm**2 / vector(made[0], NORM))
    assert "scaled-slope" in faults(made[0], broken)


@pytest.mark.parametrize("times", [1, -1])
def test_rows_that_were_not_divided_or_twice_fail(made: Made, tmp_path: Path, times: int) -> None:
    scales = row_scales(made, UP)
    broken = changed(made, tmp_path / "broken", f"{UP}.scales", lambda rows: rows * scales[:, None] ** times)
    assert "scaled-columns" in faults(made[0], broken)


def test_small_scale_that_no_weight_makes_up_for_fails(made: Made, tmp_path: Path) -> None:
    model = made[0]
    plain = tmp_path / "plain"
    for name in ("out", "scratch"):
        (plain / name).mkdir(parents=True)
    rounded = Rtn().run(model, PassContext(folder=plain / "out", scratch=plain / "scratch", threads=1))
    assert faults(model, rounded) == []
    scales = np.exp(np.random.default_rng(1).normal(0, 0.03, 64))  # a fourth of what rounding leaves
    broken = changed((model, rounded), tmp_path / "broken", NORM, lambda norm: norm / scales)
    assert faults(model, broken) == ["scaled-slope"]


def test_norm_of_another_layer_fails(made: Made, tmp_path: Path) -> None:
    other = vector(made[1], NORM.replace(".0.", ".1."))
    assert faults(made[0], changed(made, tmp_path / "broken", NORM, lambda _: other)) != []


@pytest.mark.parametrize("entry", [0.0, -1.0, float("nan")])
def test_norm_with_an_entry_that_no_scale_gives_fails(made: Made, tmp_path: Path, entry: float) -> None:
    def spoil(norm: Floats) -> Floats:
        return np.where(np.arange(len(norm)) == 5, np.float32(entry) * norm, norm)

    assert faults(made[0], changed(made, tmp_path / "broken", NORM, spoil)) == ["scaled-writers"]


def test_norm_of_another_length_fails(made: Made, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(made[1].path, tmp_path / "broken")
    broken = QuantizedHfModel(tmp_path / "broken")
    file = broken.tensors()[NORM].file
    tensors = load_file(file)
    save_file(tensors | {NORM: tensors[NORM][:1]}, file)
    assert faults(made[0], broken) == ["scaled-writers"]


def test_norm_that_nothing_links_must_be_as_it_was(made: Made, tmp_path: Path) -> None:
    broken = changed(made, tmp_path / "broken", "model.norm.weight", lambda norm: norm * 1.001)
    assert faults(made[0], broken) == ["quantized-rest"]


@pytest.mark.parametrize(
    ("one", "other", "fault"),
    [
        ("0.self_attn.q_proj", "1.self_attn.q_proj", "scaled-distance"),
        ("0.self_attn.q_proj", "0.self_attn.k_proj", "scaled-distance"),
        ("0.mlp.gate_proj", "0.mlp.up_proj", "scaled-writers"),  # rows that lie across their sources
        ("0.mlp.up_proj", "1.mlp.up_proj", "scaled-writers"),
        ("0.mlp.down_proj", "1.mlp.down_proj", "scaled-distance"),
    ],
)
def test_two_weights_swapped_fail(made: Made, tmp_path: Path, one: str, other: str, fault: str) -> None:
    shutil.copytree(made[1].path, tmp_path / "broken")
    parts = QuantizedHfModel(tmp_path / "broken").parts()
    for kind in ("codes", "scales", "zero_points"):
        pair = [parts[f"model.layers.{name}.weight.{kind}"] for name in (one, other)]
        contents = [info.file.read_bytes()[info.offset : info.offset + info.nbytes] for info in pair]
        for info, content in zip(pair, reversed(contents), strict=True):
            with info.file.open("r+b") as stream:
                stream.seek(info.offset)
                stream.write(content)
    assert fault in faults(made[0], QuantizedHfModel(tmp_path / "broken"))


def test_rows_of_a_weight_of_zeros_write_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model(tmp_path / "hf", kv_heads=4)
    tensors = load_file(model.path / "model.safetensors")
    tensors[UP][7] = 0
    tensors[NORM][3] = 0
    save_file(tensors, model.path / "model.safetensors", metadata={"format": "pt"})
    assert faults(model, quantized(model, tmp_path / "awq")) == []
