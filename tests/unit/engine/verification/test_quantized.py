"""Faults in a quantized checkpoint, and in what is exported from it, do not pass the gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from picual.engine.verification.checks import Bench, Check
from picual.engine.verification.task import verify
from picual.errors import Refused
from picual.hardware import Target
from picual.models import GenaiModel, HfModel, QuantizedHfModel
from picual.passes.base import PassContext, WeightsExported, WeightsQuantized
from picual.passes.export.genai import BuildGenai
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.rtn import Rtn
from picual.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[HfModel, QuantizedHfModel]:
    root = tmp_path_factory.mktemp("quantized")
    model = tiny_model(root / "hf")
    return model, run(Gptq(tokens=1024), model, root / "gptq")


def run(a_pass: Gptq | Rtn, model: HfModel, root: Path) -> QuantizedHfModel:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True)
    return a_pass.run(model, PassContext(folder=root / "out", scratch=root / "scratch", threads=1))


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def copied(model: QuantizedHfModel, folder: Path) -> QuantizedHfModel:
    shutil.copytree(model.path, folder)
    return QuantizedHfModel(folder)


def overwrite(model: QuantizedHfModel, part: str, change: str) -> None:
    info = model.parts()[part]
    with info.file.open("r+b") as stream:
        stream.seek(info.offset)
        array = np.frombuffer(stream.read(info.nbytes), dtype="<f4" if info.dtype == "F32" else "u1").copy()
        array = array[::-1] if change == "reverse" else array + 1 if change == "add" else array * -1
        stream.seek(info.offset)
        stream.write(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model.layers.0.self_attn.q_proj.weight.codes", "reverse"),
        ("model.layers.1.mlp.down_proj.weight.scales", "negate"),
        ("model.layers.1.mlp.up_proj.weight.zero_points", "reverse"),
    ],
)
def test_weights_that_stand_for_others_fail(
    made: tuple[HfModel, QuantizedHfModel], tmp_path: Path, part: str, change: str
) -> None:
    model, quantized = made
    assert failed(verify(WeightsQuantized(nearest=False), model, quantized, Bench())) == []
    broken = copied(quantized, tmp_path / "broken")
    overwrite(broken, part, change)
    assert failed(verify(WeightsQuantized(nearest=False), model, broken, Bench())) == ["quantized-distance"]


def test_changed_norm_fails(made: tuple[HfModel, QuantizedHfModel], tmp_path: Path) -> None:
    model, quantized = made
    broken = copied(quantized, tmp_path / "broken")
    overwrite(broken, "model.layers.0.input_layernorm.weight", "reverse")
    assert failed(verify(WeightsQuantized(nearest=False), model, broken, Bench())) == ["quantized-rest"]


def test_weight_left_out_fails(made: tuple[HfModel, QuantizedHfModel], tmp_path: Path) -> None:
    model, quantized = made
    broken = copied(quantized, tmp_path / "broken")
    file = broken.path / "quantization.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    del said["weights"]["model.layers.0.mlp.up_proj.weight"]
    file.write_text(json.dumps(said), encoding="utf-8")
    assert failed(verify(WeightsQuantized(nearest=False), model, broken, Bench())) == ["quantized-tensors"]


def test_code_one_too_high_is_more_than_half_a_step(
    made: tuple[HfModel, QuantizedHfModel], tmp_path: Path
) -> None:
    model, _ = made
    quantized = run(Rtn(search=False), model, tmp_path / "rtn")
    assert failed(verify(WeightsQuantized(nearest=True), model, quantized, Bench())) == []
    overwrite(quantized, "model.layers.0.mlp.up_proj.weight.codes", "add")
    assert failed(verify(WeightsQuantized(nearest=True), model, quantized, Bench())) == ["quantized-half-step"]


def test_one_other_bit_in_the_onnx_file_fails(made: tuple[HfModel, QuantizedHfModel], tmp_path: Path) -> None:
    _, quantized = made
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    a_pass = BuildGenai()
    genai = a_pass.run(quantized, PassContext(folder=tmp_path / "out", scratch=tmp_path / "scratch", threads=1))
    promise = next(one for one in a_pass.promises() if isinstance(one, WeightsExported))
    assert failed(verify(promise, quantized, genai, Bench())) == []
    data = genai.path / "model.onnx.data"
    with data.open("r+b") as stream:
        stream.seek(200)
        byte = stream.read(1)
        stream.seek(200)
        stream.write(bytes([byte[0] ^ 1]))
    assert failed(verify(promise, quantized, GenaiModel(genai.path), Bench())) == ["export-integers"]


@pytest.mark.parametrize("given", ["floats", "integers"])
def test_what_is_not_stored_as_the_checkpoint_has_it_fails(
    made: tuple[HfModel, QuantizedHfModel], tmp_path: Path, given: str
) -> None:
    model, quantized = made
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    context = PassContext(folder=tmp_path / "out", scratch=tmp_path / "scratch", threads=1)
    kept = next(one for one in BuildGenai().promises() if isinstance(one, WeightsExported))
    if given == "floats":  # left as floats is what was promised, and int8 is what was written
        genai, source = BuildGenai(precision="int8", block=32).run(model, context), model
    else:
        genai, source = BuildGenai(precision="fp32").run(quantized, context), quantized
    assert "export-width" in failed(verify(kept, source, genai, Bench()))


def test_network_that_only_the_other_builder_knows_is_refused_with_integers(
    made: tuple[HfModel, QuantizedHfModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, quantized = made
    monkeypatch.setattr("picual.passes.export.genai.is_known", lambda _kind: False)
    with pytest.raises(Refused, match="reads no integers"):
        BuildGenai().check(quantized, Target())
