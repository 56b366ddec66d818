"""Adapters of every method, merged: their weights and logits are those of peft with the adapter live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.errors import BadValue, Refused
from picual.hardware import Target
from picual.models import HfAdapter, HfModel
from picual.models.hf_loading import load_network
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import PassContext
from picual.testing.tiny import Layout, tiny_model

# peft's own: it reads a property that transformers renames, and remarks on tied embeddings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

FILE = "adapter_model.safetensors"
MODULES = {"llama": ["q_proj", "v_proj", "down_proj"], "phi3": ["qkv_proj", "o_proj"]}
IDS = torch.arange(3, 40)[None]
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}


def config_of(method: str, modules: list[str], **options: Any) -> Any:
    """Return the config in which peft has a method."""
    common = {"r": 3, "target_modules": modules, **TASK, **options}
    match method:
        case "dora":
            return peft.LoraConfig(lora_alpha=8, use_dora=True, **common)
        case "loha":
            return peft.LoHaConfig(alpha=8, **common)
        case "lokr":
            return peft.LoKrConfig(alpha=8, **common)
        case "lokr in factors":
            return peft.LoKrConfig(alpha=8, decompose_both=True, **{**common, "r": 1})
        case "lokr of a factor":
            return peft.LoKrConfig(alpha=8, decompose_factor=4, **common)
    return peft.LoraConfig(lora_alpha=8, **common)


METHODS = ("lora", "dora", "loha", "lokr", "lokr in factors", "lokr of a factor")


def trained(
    base: HfModel | HfAdapter,
    folder: Path,
    method: str,
    *,
    layout: Layout = "llama",
    seed: int = 1,
    **options: Any,
) -> HfAdapter:
    """Save an adapter whose every number has moved, as if it had been trained."""
    torch.manual_seed(seed)
    root = base if isinstance(base, HfModel) else base.root()
    modules = options.pop("modules", MODULES[layout])
    network = AutoModelForCausalLM.from_pretrained(root.path)
    adapted: Any = peft.get_peft_model(network, config_of(method, modules, **options))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.3 if "magnitude" in name else 0.1))
    adapted.save_pretrained(folder)
    return HfAdapter(folder, base)


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def live(adapter: HfAdapter) -> torch.Tensor:
    """Run one adapter on its model through peft: nothing is merged."""
    network: Any = AutoModelForCausalLM.from_pretrained(adapter.root().path, dtype=torch.float32)
    return logits(peft.PeftModel.from_pretrained(network, str(adapter.path)))


def merge(adapter: HfAdapter, folder: Path, **fields: Any) -> HfModel:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    a_pass = MergeAdapter(**fields)
    a_pass.check(adapter, Target())
    return a_pass.run(adapter, PassContext(folder / "out", folder / "scratch"))


def run(model: HfModel) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32))


def weights(model: HfModel) -> dict[str, torch.Tensor]:
    return load_file(model.path / "model.safetensors")


@pytest.mark.parametrize("layout", ["llama", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_the_merged_model_says_what_the_adapter_says_live(method: str, layout: Layout, tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base", layout=layout), tmp_path / "a", method, layout=layout)

    model = merge(adapter, tmp_path / "m")

    assert (run(model) - live(adapter)).abs().max() < 1e-4
    assert (run(model) - run(adapter.root())).abs().max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_network_loaded_with_its_adapter_is_the_merged_one(method: str, tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", method)

    loaded = logits(load_network(adapter, on_gpu=False))

    assert (loaded - run(merge(adapter, tmp_path / "m"))).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_ranks_and_strengths_by_pattern_are_heeded(method: str, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 1}}
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", method, **patterns)

    assert (run(merge(adapter, tmp_path / "m")) - live(adapter)).abs().max() < 1e-4


@pytest.mark.parametrize("modules", [["embed_tokens", "q_proj"], ["lm_head", "q_proj"]])
def test_the_rows_of_an_embedding_are_its_columns_for_dora(modules: list[str], tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base", tied=False), tmp_path / "a", "dora", modules=modules)

    assert (run(merge(adapter, tmp_path / "m")) - live(adapter)).abs().max() < 1e-3


def test_modules_in_full_go_along_with_every_method(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    for method in ("dora", "loha", "lokr"):
        adapter = trained(base, tmp_path / method, method, modules_to_save=["norm"])
        assert (run(merge(adapter, tmp_path / f"{method}-m")) - live(adapter)).abs().max() < 1e-4


@pytest.mark.parametrize("methods", [("lora", "dora"), ("dora", "lora"), ("loha", "lokr"), ("dora", "dora")])
def test_a_chain_is_merged_link_by_link(methods: tuple[str, str], tmp_path: Path) -> None:
    """The second adapter is on the merged first one, so its DoRA takes the lengths of that."""
    base = tiny_model(tmp_path / "base")
    first = trained(base, tmp_path / "a", methods[0])
    second = trained(first, tmp_path / "b", methods[1], seed=2)

    at_once = weights(merge(second, tmp_path / "m"))

    step = merge(first, tmp_path / "one")
    by_steps = weights(merge(HfAdapter(second.path, step), tmp_path / "two"))
    for name, weight in by_steps.items():
        torch.testing.assert_close(at_once[name], weight, rtol=1e-5, atol=1e-6)
    assert (logits(load_network(second, on_gpu=False)) - run(HfModel(tmp_path / "two" / "out"))).abs().max() < 1e-3


@pytest.mark.parametrize("methods", [("lora", "loha"), ("lokr", "lora")])
def test_the_update_of_each_adapter_counts_as_often_as_its_weight_says(
    methods: tuple[str, str], tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    first = trained(base, tmp_path / "a", methods[0])
    second = trained(first, tmp_path / "b", methods[1], seed=2)
    own = HfAdapter(second.path, base)

    found = weights(merge(second, tmp_path / "m", weights=(0.5, -2.0)))

    plain, one, other = weights(base), weights(merge(first, tmp_path / "1")), weights(merge(own, tmp_path / "2"))
    for name, weight in plain.items():
        expected = weight + 0.5 * (one[name] - weight) - 2.0 * (other[name] - weight)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=2e-6)


def refusal(adapter: HfAdapter, error: type[Exception] = Refused, **fields: Any) -> Any:
    with pytest.raises(error, match=r"\w") as caught:  # the tests look at what it says
        MergeAdapter(**fields).check(adapter, Target())
    return caught.value


def test_weights_that_cannot_be_are_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    plain = trained(base, tmp_path / "a", "lora")
    error = refusal(plain, BadValue, weights=(1.0, 2.0))
    assert "holds 2 numbers, and the chain has 1 adapter" in error.what
    assert error.hint == "weights: [1.0]"
    with pytest.raises(BadValue, match="finite"):
        MergeAdapter(weights=(float("nan"),))
    assert "DoRA" in refusal(trained(base, tmp_path / "d", "dora"), weights=(0.5,)).what
    full = trained(base, tmp_path / "f", "loha", modules_to_save=["norm"])
    assert "in full" in refusal(full, weights=(0.5,)).what
    MergeAdapter(weights=(1.0,)).check(full, Target())


PARTS = {
    "dora": "lora_magnitude_vector",
    "loha": "hada_w2_b",
    "lokr": "lokr_w1",
    "lokr in factors": "lokr_w2_b",
}


@pytest.mark.parametrize("method", PARTS)
def test_an_update_with_a_part_missing_or_of_another_shape_is_refused(method: str, tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", method)
    tensors = load_file(adapter.path / FILE)
    part = f"base_model.model.model.layers.1.self_attn.v_proj.{PARTS[method]}"
    whole = tensors.pop(part)
    save_file(tensors, adapter.path / FILE)
    assert PARTS[method] in refusal(adapter).what
    save_file({**tensors, part: torch.cat([whole, whole])}, adapter.path / FILE)
    assert "does not fit `model.layers.1.self_attn.v_proj.weight`" in refusal(adapter).what


def test_what_no_update_reads_is_refused(tmp_path: Path) -> None:
    adapter = trained(tiny_model(tmp_path / "base"), tmp_path / "a", "dora")
    config = adapter.adapter_config() | {"use_dora": False}
    (adapter.path / "adapter_config.json").write_text(json.dumps(config))
    assert "lora_magnitude_vector" in refusal(adapter).what

    kron = trained(tiny_model(tmp_path / "base"), tmp_path / "k", "lokr")
    tensors = load_file(kron.path / FILE)
    stray = "base_model.model.model.layers.0.self_attn.q_proj.lokr_t2"
    save_file({**tensors, stray: torch.zeros(2)}, kron.path / FILE)
    assert stray in refusal(kron).what


def test_the_journal_names_the_method(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    for method, how in (("dora", "DoRA, rank 3"), ("loha", "LoHa, rank 3"), ("lokr", "LoKr, rank 3")):
        adapter = trained(base, tmp_path / method, method, modules=["q_proj"])
        context = PassContext(tmp_path / f"{method}-out", tmp_path / f"{method}-scratch")
        for folder in (context.folder, context.scratch):
            folder.mkdir()
        MergeAdapter().run(adapter, context)
        assert {entry["how"] for entry in context.journal} == {f"{how}, scale 2.66667"}
