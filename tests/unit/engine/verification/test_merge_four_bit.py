"""The gate on merges of adapters that were trained beside 4-bit weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from picual.engine.verification import four_bit, live
from picual.engine.verification.checks import Bench
from picual.engine.verification.four_bit import Held
from picual.models import HfAdapter, HfModel
from picual.models.four_bit import dequantized
from picual.models.trained_on import FourBit, TrainedOn, base_digest
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import AdapterMerged, PassContext
from picual.passes.finetune.four_bit_base import linears_of
from picual.testing.tiny import tiny_model

PROMISE = AdapterMerged()
FILE = "model.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"  # adapted
UP = "model.layers.1.mlp.up_proj.weight"  # in 4 bits, and not adapted
DOWN = "model.layers.1.mlp.down_proj.weight"  # as the base has it
FORMS = [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True)]


def say(adapter: HfAdapter, kind: Any = "nf4", *, double_quant: bool = False) -> None:
    root = adapter.root()
    held = FourBit(format=kind, double_quant=double_quant, names=linears_of(root)[0])
    TrainedOn(base_digest(root), held).write(adapter.path)


def merge(adapter: HfAdapter, folder: Path, **fields: Any) -> HfModel:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return MergeAdapter(**fields).run(adapter, PassContext(folder / "out", folder / "scratch"))


@pytest.fixture
def adapter(adapter_on: Any, tmp_path: Path) -> HfAdapter:
    made: HfAdapter = adapter_on(tiny_model(tmp_path / "base"), tmp_path / "a")
    say(made)
    return made


@pytest.mark.parametrize("dtype", ["keep", "float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "double_quant"), FORMS)
def test_an_honest_merge_passes(
    failed: Any, adapter: HfAdapter, kind: Any, double_quant: bool, dtype: str, tmp_path: Path
) -> None:
    say(adapter, kind, double_quant=double_quant)
    assert not failed(PROMISE, adapter, merge(adapter, tmp_path / "m", dtype=dtype))


def test_either_base_passes_as_itself_alone(failed: Any, adapter: HfAdapter, tmp_path: Path) -> None:
    trained, original = merge(adapter, tmp_path / "t"), merge(adapter, tmp_path / "o", base="original")
    assert not failed(AdapterMerged(base="original"), adapter, original)
    assert {"merge-delta", "merge-as-trained"} <= set(failed(PROMISE, adapter, original))
    assert {"merge-delta", "merge-others-unchanged"} <= set(
        failed(AdapterMerged(base="original"), adapter, trained)
    )


@pytest.mark.parametrize(("kind", "double_quant"), FORMS)
def test_another_form_than_the_adapter_says_fails(
    failed: Any, adapter: HfAdapter, kind: Any, double_quant: bool, tmp_path: Path
) -> None:
    say(adapter, kind, double_quant=double_quant)
    made = merge(adapter, tmp_path / "m")
    say(adapter, kind, double_quant=not double_quant)
    assert {"merge-delta", "merge-as-trained"} <= set(failed(PROMISE, adapter, made))


Break = Callable[[dict[str, torch.Tensor]], Any]


def next_value(tensors: dict[str, torch.Tensor]) -> None:
    """One weight is the next of the 16 values of its block."""
    block = tensors[UP].view(-1)[:64]
    values = block.unique()
    at = int((values == block[7]).nonzero())
    block[7] = values[at + 1 if at + 1 < len(values) else at - 1]


FAULTS: dict[str, tuple[Break, set[str]]] = {
    "one weight off": (lambda made: made[UP][3, 5].add_(1e-6), {"merge-as-trained"}),
    "one weight of another value": (next_value, {"merge-as-trained"}),
    "one scale off": (lambda made: made[UP].view(-1)[64:128].mul_(1.0001), {"merge-as-trained"}),
    "a NaN": (lambda made: made[UP][0, 0].fill_(float("nan")), {"merge-as-trained"}),
    "one adapted weight off": (lambda made: made[Q][3, 5].add_(1e-5), {"merge-delta"}),
    "one weight that was whole off": (lambda made: made[DOWN][0, 0].add_(1e-6), {"merge-others-unchanged"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(failed: Any, edit: Any, adapter: HfAdapter, fault: str, tmp_path: Path) -> None:
    made = merge(adapter, tmp_path / "m")
    change, expected = FAULTS[fault]
    edit(made.path / FILE, change)
    assert set(failed(PROMISE, adapter, made)) == expected


@pytest.mark.parametrize("beside_four_bits", [True, False])
def test_right_weights_in_another_network_fail_on_its_logits(
    failed: Any, adapter: HfAdapter, beside_four_bits: bool, tmp_path: Path
) -> None:
    if not beside_four_bits:
        (adapter.path / "trained_on.json").unlink()
    made = merge(adapter, tmp_path / "m")
    (made.path / "config.json").write_text(json.dumps(made.config() | {"rms_norm_eps": 1e-2}))
    assert list(failed(PROMISE, adapter, made)) == ["merge-live"]


def test_logits_that_are_not_numbers_fail(failed: Any, adapter: HfAdapter, tmp_path: Path) -> None:
    made = merge(adapter, tmp_path / "m")
    (made.path / "config.json").write_text(json.dumps(made.config() | {"rms_norm_eps": -1e6}))
    assert "merge-live" in failed(PROMISE, adapter, made)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_network_whose_checkpoint_has_other_names_is_run_whole(
    tmp_path: Path,
) -> None:
    llama = tiny_model(tmp_path / "llama")
    sizes = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    config = AutoConfig.for_model("gpt2", **sizes, bos_token_id=256, eos_token_id=257)
    torch.manual_seed(3)
    base = HfModel(tmp_path / "base")
    AutoModelForCausalLM.from_config(config).save_pretrained(base.path)
    AutoTokenizer.from_pretrained(llama.path).save_pretrained(base.path)
    tensors = load_file(base.path / FILE)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, base.path / FILE, {"format": "pt"})
    shutil.copytree(base.path, tmp_path / "copy")
    network = AutoModelForCausalLM.from_pretrained(base.path)
    peft.get_peft_model(
        network, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    ).save_pretrained(tmp_path / "a")  # B is zero: the base itself
    (found,) = live.check(HfAdapter(tmp_path / "a", base), HfModel(tmp_path / "copy"), None, Bench())
    assert found.passed
    assert found.measured == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("kind", "double_quant"), FORMS)
def test_the_formula_is_what_the_library_does(kind: Any, double_quant: bool, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    how = FourBit(format=kind, double_quant=double_quant)
    info = base.tensors()["model.layers.0.mlp.gate_proj.weight"]
    expected = dequantized(load_file(base.path / FILE)[info.name], how)
    found = Held(info, how)
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=0.0)


def test_a_weight_in_the_middle_of_two_values_may_be_either() -> None:
    table = four_bit.VALUES["nf4"]
    block = torch.zeros(1, 64)
    block[0, 0], block[0, 1], block[0, 2] = 1.0, (table[9] + table[10]) / 2, table[9] + 0.01
    nearest, second = four_bit._nearest(block, torch.ones(1), table)
    assert {round(float(one[0, 1]), 6) for one in (nearest, second)} == {round(v, 6) for v in table[9:11]}
    assert torch.equal(nearest[0, 2:], second[0, 2:])
    assert float(nearest[0, 2]) == pytest.approx(table[9])
