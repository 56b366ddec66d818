"""Adapters that were trained beside 4-bit weights: merged onto what 4 bits left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from picual import _lazy
from picual.errors import MissingDependency, Refused
from picual.hardware import Target
from picual.models import HfAdapter, HfModel, four_bit
from picual.models.hf_loading import load_network
from picual.models.trained_on import FourBit, TrainedOn, base_digest
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import PassContext
from picual.passes.finetune.four_bit_base import linears_of
from picual.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
IDS = torch.arange(3, 40)[None]
FILE = "model.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"  # held, and not adapted
FORMS = [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True)]


def trained(base: HfModel, folder: Path, *, double_quant: bool = False, kind: Any = "nf4") -> HfAdapter:
    """An adapter that says it was trained beside 4 bits; its B is random instead of learnt."""
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(base.path)
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj"])
    adapted = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    adapted.save_pretrained(folder)
    held = FourBit(format=kind, double_quant=double_quant, names=linears_of(base)[0])
    TrainedOn(base_digest(base), held).write(folder)
    return HfAdapter(folder, base)


def live(adapter: HfAdapter, how: FourBit) -> torch.Tensor:
    """Logits of the base as transformers holds it in 4 bits, through peft: nothing merged, nothing of ours."""
    loader: Any = AutoModelForCausalLM
    network = loader.from_pretrained(
        adapter.root().path,
        dtype=torch.float32,
        device_map="cpu",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=how.format, bnb_4bit_use_double_quant=how.double_quant,
            bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["lm_head", "down_proj"],
        ),
    )  # fmt: skip
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return logits(peft.PeftModel.from_pretrained(network, str(adapter.path)))


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def of(model: HfModel) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32))


def merge(adapter: HfAdapter, folder: Path, **fields: Any) -> tuple[HfModel, PassContext]:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    context = PassContext(folder / "out", folder / "scratch")
    a_pass = MergeAdapter(**fields)
    a_pass.check(adapter, Target())
    return a_pass.run(adapter, context), context


@pytest.mark.parametrize(("kind", "double_quant"), FORMS)
def test_the_merged_model_says_what_the_network_that_was_trained_says(
    kind: Any, double_quant: bool, tmp_path: Path
) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", kind=kind, double_quant=double_quant)
    expected = live(adapter, FourBit(format=kind, double_quant=double_quant))

    made, _ = merge(adapter, tmp_path / "m")
    original, _ = merge(adapter, tmp_path / "o", base="original")

    assert (of(made) - expected).abs().max() < 1e-3
    assert (of(original) - expected).abs().max() > 0.1


def test_evaluating_the_adapter_measures_the_network_that_was_trained(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", double_quant=True)
    expected = live(adapter, FourBit(format="nf4", double_quant=True))
    assert (logits(load_network(adapter, on_gpu=False)) - expected).abs().max() < 1e-3


def test_layers_without_an_adapter_are_as_4_bits_left_them_and_the_journal_says_so(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    before = load_file(adapter.root().path / FILE)

    made, context = merge(adapter, tmp_path / "m")
    after = load_file(made.path / FILE)

    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(linears_of(adapter.root())[0])
    assert len({float(value) for value in after[UP].flatten()[:64]}) <= 16
    said = {entry["changed"]: entry["how"] for entry in context.journal if "changed" in entry}
    assert said[UP] == "as nf4 left it"
    assert said["model.layers.0.self_attn.q_proj.weight"] == "rank 4, scale 2"


def test_onto_the_original_the_rest_keeps_its_bytes_and_what_is_lost_is_noted(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")

    made, context = merge(adapter, tmp_path / "m", base="original")

    assert torch.equal(load_file(made.path / FILE)[UP], load_file(adapter.root().path / FILE)[UP])
    assert any("trained beside 12 weights in nf4" in entry.get("note", "") for entry in context.journal)


def test_an_adapter_of_whole_weights_merges_the_same_either_way(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    TrainedOn(base_digest(adapter.root()), None).write(adapter.path)

    made, context = merge(adapter, tmp_path / "m")
    original, _ = merge(adapter, tmp_path / "o", base="original")

    assert (made.path / FILE).read_bytes() == (original.path / FILE).read_bytes()
    assert not [entry for entry in context.journal if "note" in entry]


def test_another_base_of_the_same_shape_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    other = HfAdapter(adapter.path, tiny_model(tmp_path / "other", seed=5))
    with pytest.raises(Refused, match="trained on another model") as caught:
        MergeAdapter().check(other, Target())
    assert caught.value.hint == "give the model this adapter was trained on"
    (adapter.path / "trained_on.json").unlink()
    MergeAdapter().check(other, Target())  # from elsewhere: nothing is known


def test_a_base_without_a_layer_that_was_held_is_refused(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    held = FourBit(format="nf4", double_quant=False, names=("model.layers.9.mlp.up_proj.weight",))
    TrainedOn(base_digest(adapter.root()), held).write(adapter.path)
    with pytest.raises(Refused, match=r"`model.layers.9.mlp.up_proj.weight`, which this model does not have"):
        MergeAdapter().check(adapter, Target())


def test_what_is_not_installed_is_named_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    monkeypatch.setattr(_lazy, "is_installed", lambda module: module != "bitsandbytes")
    with pytest.raises(MissingDependency, match="bitsandbytes") as caught:
        MergeAdapter().check(adapter, Target())
    assert caught.value.hint == 'pip install "picual[qlora]"'
    MergeAdapter(base="original").check(adapter, Target())


def test_a_finished_shard_of_another_base_is_not_taken_for_ours(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a")
    for name in ("one", "two", "scratch"):
        (tmp_path / name).mkdir()
    MergeAdapter(base="original").run(adapter, PassContext(tmp_path / "one", tmp_path / "scratch"))
    made = MergeAdapter().run(adapter, PassContext(tmp_path / "two", tmp_path / "scratch"))
    expected, _ = merge(adapter, tmp_path / "m")
    assert (made.path / FILE).read_bytes() == (expected.path / FILE).read_bytes()


def test_threads_do_not_change_the_mean_of_the_scales() -> None:
    """Several threads sum in another order; which size and seed shows it is a matter of luck: one of six does."""
    before = torch.get_num_threads()
    scales = [
        torch.rand(200_000 + 1000 * seed, generator=torch.Generator().manual_seed(seed)) for seed in range(6)
    ]
    plain, pinned = set(), set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        plain.add(tuple(float(one.mean()) for one in scales))
        pinned.add(tuple(float(four_bit._mean(one)) for one in scales))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert len(plain) > 1, "the test wants a mean that goes by the number of threads"
    assert len(pinned) == 1


def test_halves_are_rounded_once_to_their_own_type(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(base.path / FILE).items()}
    save_file(tensors, base.path / FILE, {"format": "pt"})
    adapter = trained(base, tmp_path / "a")
    wide, _ = merge(adapter, tmp_path / "w", dtype="float32")
    kept, _ = merge(adapter, tmp_path / "k")
    for name, weight in load_file(kept.path / FILE).items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, load_file(wide.path / FILE)[name].bfloat16())
