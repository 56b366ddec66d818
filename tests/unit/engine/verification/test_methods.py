"""The gate on adapters of every method: an honest one passes, a planted fault is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from picual.models import HfAdapter, HfModel
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import AdapterMerged, AdapterTrained, PassContext
from picual.testing.tiny import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

FILE, ADAPTER = "model.safetensors", "adapter_model.safetensors"
MODULES = ["q_proj", "down_proj"]
Q = "model.layers.0.self_attn.q_proj.weight"
PREFIX = "base_model.model.model.layers.1.self_attn.q_proj."
CONFIGS: dict[str, Callable[..., Any]] = {
    "dora": lambda **more: peft.LoraConfig(lora_alpha=8, use_dora=True, **more),
    "loha": lambda **more: peft.LoHaConfig(alpha=8, **more),
    "lokr": lambda **more: peft.LoKrConfig(alpha=8, **more),
    "lokr in factors": lambda **more: peft.LoKrConfig(alpha=8, decompose_both=True, **{**more, "r": 1}),
}


def adapter_of(
    method: str, base: HfModel | HfAdapter, folder: Path, *, seed: int = 1, modules: Any = None
) -> HfAdapter:
    torch.manual_seed(seed)
    root = base if isinstance(base, HfModel) else base.root()
    network = AutoModelForCausalLM.from_pretrained(root.path, dtype=torch.float32)
    config = CONFIGS[method](r=3, target_modules=modules or MODULES, task_type="CAUSAL_LM")
    adapted: Any = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.3 if "magnitude" in name else 0.1))
    adapted.save_pretrained(folder)
    return HfAdapter(folder, base)


def merge(adapter: HfAdapter, folder: Path, **fields: Any) -> HfModel:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return MergeAdapter(**fields).run(adapter, PassContext(folder / "out", folder / "scratch"))


def halve(edit: Any, model: HfModel) -> None:
    """Store a checkpoint in bfloat16."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    edit(model.path / FILE, change)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("narrow", [False, True])
def test_an_honest_merge_of_every_method_passes(
    failed: Any, edit: Any, method: str, narrow: bool, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    if narrow:
        halve(edit, base)
    adapter = adapter_of(method, base, tmp_path / "a")
    assert not failed(AdapterTrained(modules=tuple(MODULES)), base, adapter)
    assert not failed(AdapterMerged(), adapter, merge(adapter, tmp_path / "m"))


@pytest.mark.parametrize("methods", [("dora", "loha"), ("lokr", "dora"), ("dora", "dora")])
def test_an_honest_chain_passes_and_not_in_the_other_order(
    failed: Any, methods: tuple[str, str], tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    first = adapter_of(methods[0], base, tmp_path / "a")
    second = adapter_of(methods[1], first, tmp_path / "b", seed=2)
    made = merge(second, tmp_path / "m")
    assert not failed(AdapterMerged(), second, made)
    turned = HfAdapter(first.path, HfAdapter(second.path, base))
    assert "merge-delta" in failed(AdapterMerged(), turned, made)


def test_an_adapted_embedding_passes_whose_columns_have_the_lengths(
    failed: Any, edit: Any, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base", tied=False)
    adapter = adapter_of("dora", base, tmp_path / "a", modules=["embed_tokens", "q_proj"])
    made = merge(adapter, tmp_path / "m")
    assert not failed(AdapterMerged(), adapter, made)
    edit(made.path / FILE, lambda tensors: tensors["model.embed_tokens.weight"][:, 3].mul_(1.001))
    assert list(failed(AdapterMerged(), adapter, made)) == ["merge-delta"]


def test_weights_are_part_of_the_promise(failed: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    first = adapter_of("loha", base, tmp_path / "a")
    second = adapter_of("lokr", first, tmp_path / "b", seed=2)
    made = merge(second, tmp_path / "m", weights=(0.5, -1.5))
    assert MergeAdapter(weights=(0.5, -1.5)).promises()[0] == AdapterMerged(weights=(0.5, -1.5))
    assert not failed(AdapterMerged(weights=(0.5, -1.5)), second, made)
    for wrong in ((), (0.5, 1.5), (-1.5, 0.5), (0.5001, -1.5)):
        assert "merge-delta" in failed(AdapterMerged(weights=wrong), second, made)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("fault", ["left out", "twice", "one number off", "one row longer"])
def test_a_planted_fault_is_caught(failed: Any, edit: Any, method: str, fault: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    adapter = adapter_of(method, tiny_model(tmp_path / "base"), tmp_path / "a")
    made = merge(adapter, tmp_path / "m")
    base = load_file(adapter.root().path / FILE)
    changes: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
        "left out": lambda made: made.update({Q: base[Q]}),
        "twice": lambda made: made.update({Q: 2 * made[Q] - base[Q]}),
        "one number off": lambda made: made[Q][5, 7].add_(2e-5),
        "one row longer": lambda made: made[Q][9].mul_(1.0001),
    }
    edit(made.path / FILE, changes[fault])
    found = failed(AdapterMerged(), adapter, made)
    assert "merge-delta" in found
    assert f"`{Q}`" in found["merge-delta"]
    assert ("merge-adapter-present" in found) == (fault == "left out")


def test_dora_without_its_lengths_is_caught(failed: Any, edit: Any, tmp_path: Path) -> None:
    """The sum alone, as of plain LoRA, is not what a DoRA adapter stands for."""
    adapter = adapter_of("dora", tiny_model(tmp_path / "base"), tmp_path / "a")
    plain = HfAdapter(tmp_path / "plain", adapter.root())
    plain.path.mkdir()
    config = adapter.adapter_config()
    (plain.path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": False}))
    (plain.path / ADAPTER).write_bytes((adapter.path / ADAPTER).read_bytes())

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "magnitude" in name]:
            del tensors[name]

    edit(plain.path / ADAPTER, drop)
    found = failed(AdapterMerged(), adapter, merge(plain, tmp_path / "m"))
    assert {"merge-delta", "merge-strength"} <= set(found)


ZERO = {"dora": "lora_B.weight", "loha": "hada_w2_a", "lokr": "lokr_w1", "lokr in factors": "lokr_w2_b"}


@pytest.mark.parametrize("method", CONFIGS)
def test_an_update_of_zeros_fails_and_names_its_module(
    failed: Any, edit: Any, method: str, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = adapter_of(method, base, tmp_path / "a")
    edit(adapter.path / ADAPTER, lambda tensors: tensors[PREFIX + ZERO[method]].zero_())
    found = failed(AdapterTrained(modules=tuple(MODULES)), base, adapter)
    assert list(found) == ["adapter-moved"]
    assert "`model.layers.1.self_attn.q_proj`" in found["adapter-moved"]


PARTS = {"dora": "lora_magnitude_vector", "loha": "hada_w1_b", "lokr": "lokr_w1", "lokr in factors": "lokr_w1_a"}


@pytest.mark.parametrize("method", CONFIGS)
def test_a_part_missing_not_finite_or_of_another_shape_fails(
    failed: Any, edit: Any, method: str, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = adapter_of(method, base, tmp_path / "a")
    promise, part = AdapterTrained(modules=tuple(MODULES)), PREFIX + PARTS[method]
    whole = (adapter.path / ADAPTER).read_bytes()
    edit(adapter.path / ADAPTER, lambda tensors: tensors[part].reshape(-1)[0].fill_(float("inf")))
    assert list(failed(promise, base, adapter)) == ["adapter-finite"]
    (adapter.path / ADAPTER).write_bytes(whole)
    edit(adapter.path / ADAPTER, lambda tensors: tensors.update({part: torch.cat([tensors[part]] * 2)}))
    assert list(found := failed(promise, base, adapter)) == ["adapter-shapes"]
    assert PARTS[method].split(".")[0] in found["adapter-shapes"]
    assert "merge-delta" in failed(AdapterMerged(), adapter, base)
    (adapter.path / ADAPTER).write_bytes(whole)
    edit(adapter.path / ADAPTER, lambda tensors: tensors.pop(part))
    assert list(failed(promise, base, adapter)) == ["adapter-complete"]
    assert "merge-adapter-known" in failed(AdapterMerged(), adapter, base)
