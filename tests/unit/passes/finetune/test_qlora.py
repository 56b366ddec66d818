from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.errors import Refused
from picual.hardware import Machine, Target, machine
from picual.models import HfAdapter, HfModel
from picual.models.trained_on import FourBit, TrainedOn, base_digest, read
from picual.numerics.stored_layers import StoredEmbedding
from picual.passes.base import PassContext
from picual.passes.finetune.four_bit_base import held_bytes, linears_of, load_four_bit
from picual.passes.finetune.lora import Lora
from picual.passes.finetune.qlora import Qlora, compute_dtype_of
from picual.space import Settings
from picual.testing import tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]
FILE = "model.safetensors"
IDS = torch.arange(3, 40)[None]
# Dettmers et al., arXiv 2305.14314, appendix E, and the 4-bit float.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [sign * value / 12 for sign in (-1, 1) for value in (0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)]


def nearest(weight: torch.Tensor, table: list[float]) -> torch.Tensor:
    """The paper's rounding, one block at a time."""
    blocks: npt.NDArray[np.float64] = weight.double().numpy().reshape(-1, 64)
    values = np.array(table)
    scales = np.abs(blocks).max(axis=1, keepdims=True)
    codes = np.abs(blocks[:, :, None] / scales[:, :, None] - values).argmin(axis=2)
    return torch.from_numpy((values[codes] * scales).reshape(weight.shape)).float()


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def rounded(model: HfModel, folder: Path, table: list[float], names: tuple[str, ...]) -> HfModel:
    """A checkpoint with what 4 bits leave of some weights."""
    folder.mkdir()
    for file in model.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model.path / FILE)
    tensors |= {name: nearest(tensors[name], table) for name in names}
    save_file(tensors, folder / FILE, {"format": "pt"})
    return HfModel(folder)


def plain(model: HfModel) -> Any:
    return AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)


def held(model: HfModel, **how: Any) -> FourBit:
    return FourBit(**{"format": "nf4", "double_quant": False, "names": linears_of(model)[0], **how})


def in_four_bits(model: HfModel, **how: Any) -> Any:
    return load_four_bit(model, held(model, **how), dtype=torch.float32, compute=torch.float32)


@pytest.mark.parametrize(("kind", "table"), [("nf4", NF4), ("fp4", FP4)])
@pytest.mark.parametrize("tied", [True, False])
def test_the_base_is_the_checkpoint_with_the_papers_rounding(
    kind: str, table: list[float], tied: bool, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "base", tied=tied)
    expected = logits(plain(rounded(model, tmp_path / "rounded", table, linears_of(model)[0])))

    found = logits(in_four_bits(model, format=kind))

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert (found - logits(plain(model))).abs().max() > 0.1


def test_every_linear_layer_of_whole_blocks_is_held_and_nothing_else(tmp_path: Path) -> None:
    names, others = linears_of(tiny_model(tmp_path / "base", tied=False))
    parts = {name.split(".")[-2] for name in names}
    assert parts == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    assert {name.split(".")[-2] for name in others} == {"down_proj"}  # 96 inputs
    assert len(names) == 12


def test_held_weights_take_a_small_part_of_float32(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base")
    whole = 4 * sum(model.tensors()[name].count for name in linears_of(model)[0])
    single, double = (held_bytes(in_four_bits(model, double_quant=both)) for both in (False, True))
    assert single == whole * (0.5 + 4 / 64) / 4
    assert double < single
    assert whole * (0.5 + 1 / 64) / 4 <= double < 0.35 * whole


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_of_16_bits_stays_so_and_the_logits_are_those_of_float32(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base", tied=tied)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(model.path / FILE).items()}
    save_file(tensors, model.path / FILE, {"format": "pt"})
    wide = rounded(model, tmp_path / "wide", NF4, linears_of(model)[0])

    network = in_four_bits(model)

    assert isinstance(network.get_input_embeddings(), StoredEmbedding)
    assert network.get_input_embeddings().weight.dtype == torch.bfloat16
    assert network.get_output_embeddings().weight.dtype == torch.bfloat16
    assert (network.get_output_embeddings().weight is network.get_input_embeddings().weight) == tied
    assert network.model.norm.weight.dtype == torch.float32
    torch.testing.assert_close(logits(network), logits(plain(wide)), rtol=1e-5, atol=1e-4)
    in_full = load_four_bit(
        model, held(model), dtype=torch.float32, compute=torch.float32, in_full=("embed_tokens",)
    )
    assert in_full.get_input_embeddings().weight.dtype == torch.float32


EXACT: dict[str, Any] = {"compute_dtype": "float32", "kind": Qlora}
SLOW = {"learning_rate": 1e-2, "max_steps": 4}


def assert_same(one: HfAdapter, other: HfAdapter) -> None:
    left, right = (load_file(made.path / "adapter_model.safetensors") for made in (one, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=2e-5)


def test_the_adapter_is_that_of_lora_on_what_4_bits_leave_of_the_weights(
    train: Train, llama: HfModel, tmp_path: Path
) -> None:
    twin = rounded(llama, tmp_path / "rounded", NF4, linears_of(llama)[0])
    made, context = train(training=SLOW, dropout=0.0, **EXACT)
    expected, _ = train(training=SLOW, dropout=0.0, model=twin)
    other, _ = train(training=SLOW, dropout=0.0)
    assert_same(made, expected)
    with pytest.raises(AssertionError):
        assert_same(made, other)
    assert context.metrics["base_bits_a_weight"] == 4.5
    skipped = [entry for entry in context.journal if "skipped" in entry]
    assert {entry["skipped"].split(".")[-2] for entry in skipped} == {"down_proj"}


def test_an_evaluation_on_the_way_changes_nothing(train: Train) -> None:
    alone, _ = train(training=SLOW, data={"holdout": 0.3}, dropout=0.0, **EXACT)
    often, _ = train(
        training={**SLOW, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 1}, data={"holdout": 0.3},
        dropout=0.0, **EXACT,
    )  # fmt: skip
    assert_same(alone, often)


def test_layers_multiply_in_the_asked_type(llama: HfModel) -> None:
    exact = in_four_bits(llama)
    halves = load_four_bit(llama, held(llama), dtype=torch.float32, compute=torch.bfloat16)
    difference = float((logits(exact) - logits(halves)).abs().max() / logits(exact).abs().max())
    assert 1e-4 < difference < 5e-2


def test_the_adapter_says_what_it_was_trained_on(train: Train, llama: HfModel) -> None:
    made, _ = train(training={"max_steps": 1}, quant_type="fp4", double_quant=True, **EXACT)
    whole, _ = train(training={"max_steps": 1})
    names = tuple(sorted(linears_of(llama)[0]))
    assert read(made.path) == TrainedOn(base_digest(llama), FourBit(format="fp4", double_quant=True, names=names))
    assert read(whole.path) == TrainedOn(base_digest(llama), None)


@pytest.mark.parametrize(
    ("asked", "instructions", "gpu", "found", "noted"),
    [
        ("auto", ("avx2",), False, "float32", False), ("auto", ("avx512_bf16",), False, "bfloat16", False),
        ("auto", ("amx_bf16",), False, "bfloat16", False), ("bfloat16", ("avx2",), False, "float32", True),
        ("bfloat16", ("avx512_bf16",), False, "bfloat16", False), ("bfloat16", (), True, "bfloat16", False),
        ("float32", ("avx512_bf16",), False, "float32", False),
    ],
)  # fmt: skip
def test_the_type_of_the_layers_is_one_the_machine_is_fast_at(
    asked: str, instructions: tuple[str, ...], gpu: bool, found: str, noted: bool
) -> None:
    import dataclasses

    here: Machine = dataclasses.replace(machine(), instructions=instructions)
    dtype, note = compute_dtype_of(asked, here, gpu=gpu)
    assert dtype == found
    assert bool(note) == noted


def test_check_refuses_what_cannot_be_held_or_trained(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base")
    with pytest.raises(Refused, match="`q_proj` is held in 4 bits"):
        Qlora(data="x", modules_to_save=("q_proj",)).check(model, Target())
    Qlora(data="x", modules_to_save=("norm", "lm_head")).check(model, Target())
    tensors = load_file(model.path / FILE)
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, model.path / FILE, {"format": "pt"})
    with pytest.raises(Refused, match=r"`model.layers.0.self_attn.q_proj.weight` holds I8"):
        Qlora(data="x").check(model, Target())
    cut = {n: t[:, :60].contiguous() if t.ndim == 2 and "embed" not in n else t for n, t in tensors.items()}
    save_file(cut, model.path / FILE, {"format": "pt"})
    with pytest.raises(Refused, match="multiple of 64"):
        Qlora(data="x").check(model, Target())


def test_the_forecast_counts_few_bits_a_weight(llama: HfModel) -> None:
    import dataclasses

    large = dataclasses.replace(llama.profile(), linear=1_000_000_000)
    settings = {"data": "x", "dtype": "float32", "training": Settings({"max_steps": 1})}
    whole = Lora(**settings).forecast(large, Target(), machine(), {}).memory
    single = Qlora(**settings).forecast(large, Target(), machine(), {}).memory
    double = Qlora(**settings, double_quant=True).forecast(large, Target(), machine(), {}).memory
    assert whole - single == pytest.approx((4 - 0.5 - 4 / 64) * 1e9, abs=5e7)
    assert double < single
