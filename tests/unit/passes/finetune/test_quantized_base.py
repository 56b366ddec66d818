"""An adapter trained on a quantizer's integers: what it is trained on, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.hardware import Target
from picual.models import HfAdapter, HfModel, QuantizedHfModel, model_from_wire
from picual.models.hf_loading import load_base
from picual.models.quantized_weights import open_weight
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import PassContext
from picual.passes.finetune.lora import Lora
from picual.passes.quantize.rtn import Rtn
from picual.testing import tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]
STEPS = {"max_steps": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}


def context_in(folder: Path) -> PassContext:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return PassContext(folder / "out", folder / "scratch", target=Target(threads=1))


@pytest.fixture(scope="module", params=["llama", "phi3"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> QuantizedHfModel:
    folder = tmp_path_factory.mktemp("base")
    return Rtn(head="int4").run(tiny_model(folder / "float", layout=request.param), context_in(folder / "rtn"))


def dequantized(base: QuantizedHfModel, folder: Path) -> HfModel:
    """Write the numbers that the integers stand for as a plain checkpoint, by transformers alone."""
    network = load_base(base, torch.float32)
    for name, how in base.stored().items():
        stored = torch.from_numpy(open_weight(base, name).rows(0, how.shape[0]).copy())
        assert torch.equal(network.state_dict()[name], stored)
    network.save_pretrained(folder)
    for companion in base.companions():
        (folder / companion.name).write_bytes(companion.read_bytes())
    return HfModel(folder)


def test_training_sees_the_numbers_that_the_integers_stand_for(
    base: QuantizedHfModel, train: Train, tmp_path: Path
) -> None:
    made, context = train(model=base, training=STEPS, dropout=0.0)
    other, reference = train(model=dequantized(base, tmp_path / "plain"), training=STEPS, dropout=0.0)

    assert made == HfAdapter(context.folder, base=base)
    left, right = (load_file(one.path / "adapter_model.safetensors") for one in (made, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
    assert context.metrics["train_loss"] == reference.metrics["train_loss"]


def test_left_to_itself_the_weights_stay_on_their_grid(
    base: QuantizedHfModel, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picual.passes.finetune import precision

    monkeypatch.setattr(precision, "FAST_BF16", {"", "sse2", "neon", "avx2", "avx512f"})
    exact, _ = train(model=base, training=STEPS, dropout=0.0, dtype="float32")
    auto, _ = train(model=base, training=STEPS, dropout=0.0, dtype="auto")
    half, _ = train(model=base, training=STEPS, dropout=0.0, dtype="bfloat16")

    files = [load_file(one.path / "adapter_model.safetensors") for one in (exact, auto, half)]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    assert any(not torch.equal(tensor, files[2][name]) for name, tensor in files[0].items())


def test_the_gate_knows_the_modules_of_integers(base: QuantizedHfModel, train: Train) -> None:
    made, _ = train(model=base, training=STEPS)
    (promise,) = Lora(data="tones").promises()
    assert [check.name for check in verify(promise, base, made, Bench()) if not check.passed] == []
    first = next(name for name in load_file(made.path / "adapter_model.safetensors") if "lora_B" in name)
    tensors = load_file(made.path / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file({**tensors, first: torch.zeros_like(tensors[first])}, made.path / "adapter_model.safetensors")
    assert [check.name for check in verify(promise, base, made, Bench()) if not check.passed] == ["adapter-moved"]


def test_the_wire_form_keeps_what_kind_the_base_is(base: QuantizedHfModel, train: Train) -> None:
    made, context = train(model=base, training={"max_steps": 1})
    again = model_from_wire(made.to_wire(context.folder, base), context.folder, base)
    assert again == made
    assert isinstance(model_from_wire(made.to_wire(), Path("/")), HfAdapter)
    assert isinstance(made.root(), QuantizedHfModel)
    assert made.chain() == [made]


def stored_in(model: HfModel) -> dict[str, torch.Tensor]:
    return {name: tensor for file in model.weight_files() for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_merging_adds_to_what_the_integers_stand_for(
    base: QuantizedHfModel, dtype: Any, train: Train, tmp_path: Path
) -> None:
    adapter, _ = train(model=base, training=STEPS, modules=("o_proj",), rank=4, alpha=8.0)
    a_pass = MergeAdapter(dtype=dtype)
    a_pass.check(adapter, Target())

    merged = a_pass.run(adapter, context_in(tmp_path / "merged"))

    kind = torch.float32 if dtype == "keep" else torch.bfloat16
    plain = load_base(base, torch.float32).state_dict()
    factors = load_file(adapter.path / "adapter_model.safetensors")
    stored = stored_in(merged)
    assert set(stored) == set(base.tensors())
    for name, tensor in stored.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = plain[name]
        if f"{prefix}.lora_A.weight" in factors:
            expected = expected + 2.0 * factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(tensor, expected.to(kind), rtol=1e-2 if dtype == "bfloat16" else 0, atol=1e-7)
        assert tensor.dtype == kind
    failed = [c.name for p in a_pass.promises() for c in verify(p, adapter, merged, Bench()) if not c.passed]
    assert failed == []
    Rtn().check(merged, Target())  # floats again, so that they can be quantized again


def test_a_merge_that_loses_a_dequantized_weight_fails(
    base: QuantizedHfModel, train: Train, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    adapter, _ = train(model=base, training=STEPS, modules=("o_proj",))
    merged = MergeAdapter().run(adapter, context_in(tmp_path / "merged"))
    for name, change in (("1.mlp.down_proj", 1.0001), ("0.self_attn.o_proj", 1.001)):
        file = merged.tensors()[f"model.layers.{name}.weight"].file
        stored = {key: tensor.clone() for key, tensor in load_file(file).items()}
        stored[f"model.layers.{name}.weight"] *= change
        file.unlink()
        save_file(stored, file, {"format": "pt"})

    (promise, _) = MergeAdapter().promises()
    failed = {check.name for check in verify(promise, adapter, merged, Bench()) if not check.passed}
    assert {"merge-others-unchanged", "merge-delta"} <= failed
