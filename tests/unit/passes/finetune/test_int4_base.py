"""`base: int4`: the base is quantized on the way, and the adapter is the one that would be trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from picual.data.base import DataConfig
from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.errors import Refused
from picual.hardware import Target, machine
from picual.models import HfAdapter, HfModel, QuantizedHfModel
from picual.passes.base import PassContext
from picual.passes.finetune.lora import Lora
from picual.passes.quantize.quantize import Quantize
from picual.space import Settings
from picual.testing import PassContract, tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]
STEPS = {"max_steps": 2, "learning_rate": 1e-2}


def rows(folder: Path) -> Mapping[str, DataConfig]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {number} of few"}}\n' for number in range(6)))
    return {"rows": DataConfig(files=(str(path),), text="text")}


class TestContract(PassContract):
    a_pass = Lora(data="rows", rank=4, base="int4", training=Settings(STEPS))
    a_model = staticmethod(tiny_model)
    a_data = staticmethod(rows)

    @staticmethod
    def a_refusal(folder: Path) -> HfModel:
        model = tiny_model(folder)
        file = model.path / "model.safetensors"
        save_file(
            {
                name: tensor.to(torch.int32) if "o_proj" in name else tensor
                for name, tensor in load_file(file).items()
            },
            file,
            {"format": "pt"},
        )
        return model


def test_the_adapter_is_the_one_trained_on_what_quantize_makes(
    llama: HfModel, train: Train, tmp_path: Path
) -> None:
    for name in ("out", "scratch"):
        (tmp_path / "q" / name).mkdir(parents=True)
    context = PassContext(tmp_path / "q" / "out", tmp_path / "q" / "scratch", threads=1)
    quantized = Quantize(effort="fast").run(llama, context)
    expected, _ = train(model=quantized, training=STEPS)

    made, context = train(training=STEPS, base="int4")

    base = made.root()
    assert base == QuantizedHfModel(context.folder / "base")
    for file in quantized.weight_files():
        assert (base.path / file.name).read_bytes() == file.read_bytes()
    left, right = (load_file(one.path / "adapter_model.safetensors") for one in (expected, made))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_the_base_is_verified_with_the_adapter(llama: HfModel, train: Train) -> None:
    made, _ = train(training=STEPS, base="int4")
    promises = Lora(data="tones", base="int4").promises()

    def failed() -> set[str]:
        return {check.name for one in promises for check in verify(one, llama, made, Bench()) if not check.passed}

    assert failed() == set()
    base = made.root()
    assert isinstance(base, QuantizedHfModel)
    part = base.parts()["model.layers.0.mlp.up_proj.weight.scales"]
    stored = {name: tensor.clone() for name, tensor in load_file(part.file).items()}
    stored[part.name] *= 2.0
    save_file(stored, part.file, {"format": "pt"})
    assert failed() == {"quantized-distance", "adapter-base"}  # its digest is another too


def test_integers_are_not_quantized_again(llama: HfModel, train: Train) -> None:
    made, _ = train(training={"max_steps": 1}, base="int4")
    with pytest.raises(Refused, match="quantized already") as caught:
        Lora(data="x", base="int4").check(made.root(), Target())
    assert "leave `base` out" in caught.value.hint


def test_the_forecast_counts_the_base(llama: HfModel) -> None:
    given = llama.profile()
    plain, on_int4 = (
        Lora(data="x", base=base).forecast(given, Target(), machine(), {}) for base in ("as-given", "int4")
    )
    assert on_int4.disk > plain.disk
    assert on_int4.seconds > plain.seconds
    after = Lora(data="x", base="int4").profile_after(given)
    assert 0 < after.quantized < given.bytes
    assert Lora(data="x", base="int4").compresses()
    assert dataclasses.replace(after, bytes=given.bytes, quantized=0) == given
