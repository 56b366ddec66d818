"""Every method trains: the adapter is peft's own after the same steps, and what it costs is foreseen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from picual.data.base import DataConfig
from picual.data.files import rows
from picual.data.sequences import sequences
from picual.data.split import train_rows
from picual.errors import BadValue, Refused
from picual.hardware import Target, machine
from picual.models import HfAdapter, HfModel
from picual.passes.base import PassContext
from picual.passes.finetune.adapter import AdapterForm, add_adapter
from picual.passes.finetune.cost import _trained
from picual.passes.finetune.lora import Lora
from picual.space import Settings
from picual.testing import PassContract, tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]
MODULES = ["q_proj", "down_proj"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "rslora": lambda: peft.LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=MODULES, task_type="CAUSAL_LM"
    ),
    "dora": lambda: peft.LoraConfig(
        r=4, lora_alpha=8, use_dora=True, target_modules=MODULES, task_type="CAUSAL_LM"
    ),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=MODULES, task_type="CAUSAL_LM"),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=8, target_modules=MODULES, task_type="CAUSAL_LM"),
}
CONSTANT = {
    "learning_rate": 1e-2, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
    "max_grad_norm": 0.0, "per_device_train_batch_size": 6,
}  # fmt: skip


def weights(adapter: HfAdapter) -> dict[str, torch.Tensor]:
    return load_file(adapter.path / "adapter_model.safetensors")


def by_hand(method: str, model: HfModel, context: PassContext) -> dict[str, torch.Tensor]:
    """Train three steps as a textbook would, on an adapter that peft started."""
    config = context.data["tones"]
    made = sequences(train_rows(rows(config), config), config, AutoTokenizer.from_pretrained(model.path)).sequences
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    torch.manual_seed(7)
    with pytest.warns(FutureWarning):
        adapted: Any = peft.get_peft_model(network, CONFIGS[method]())
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(3):
        group = made[step * 6 : (step + 1) * 6]
        total = torch.zeros(())
        for row in group:
            ids = torch.tensor([row.input_ids])
            logits = adapted(input_ids=ids).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        (total / sum(len(row.input_ids) - 1 for row in group)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peft.get_peft_model_state_dict(adapted)


@pytest.mark.parametrize("method", CONFIGS)
def test_the_adapter_is_the_one_of_a_training_by_hand(method: str, train: Train, llama: HfModel) -> None:
    made, context = train(
        method=method, training=CONSTANT, rank=4, alpha=8.0, dropout=0.0, modules=("q_proj", "down_proj")
    )

    expected = by_hand(method, llama, context)

    found = weights(made)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_a_killed_training_of_any_method_ends_in_the_same_bytes(
    method: str, train: Train, llama: HfModel, tmp_path: Path
) -> None:
    whole, context = train(method=method, training={"max_steps": 6, "save_steps": 2}, dropout=0.2)
    scratch = tmp_path / "killed"
    scratch.mkdir()

    class Killed(BaseException):
        pass

    def kill(done: float, _total: float, _note: str) -> None:
        if done == 5:
            raise Killed

    killed = PassContext(
        folder=tmp_path / "none", scratch=scratch, seed=7, threads=1, data=context.data, on_progress=kill
    )
    killed.folder.mkdir()
    fields: dict[str, Any] = {"data": "tones", "dtype": "float32", "method": method, "dropout": 0.2}
    with pytest.raises(Killed):
        Lora(**fields, training=Settings({"max_steps": 6, "save_steps": 2})).run(llama, killed)
    assert (scratch / "checkpoint-4").is_dir()
    made, _ = train(method=method, training={"max_steps": 6, "save_steps": 2}, dropout=0.2, scratch=scratch)
    assert weights(made).keys() == weights(whole).keys()
    assert all(torch.equal(tensor, weights(made)[name]) for name, tensor in weights(whole).items())


@pytest.mark.parametrize("method", ["dora", "lokr"])
def test_the_best_evaluation_of_any_method_is_kept(method: str, train: Train) -> None:
    settings = {
        "max_steps": 5, "learning_rate": 1e-3, "load_best_model_at_end": True, "greater_is_better": True,
        "eval_steps": 1,
    }  # fmt: skip
    made, context = train(method=method, training=settings, data={"holdout": 0.3})
    state = json.loads((context.scratch / "checkpoint-5" / "trainer_state.json").read_text())
    best = state["best_global_step"]
    assert best < 5, "the test wants another step than the last"
    kept = load_file(context.scratch / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert kept.keys() == weights(made).keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(made).items())


def test_the_old_spelling_of_rslora_is_the_method(train: Train) -> None:
    old, _ = train(use_rslora=True)
    new, _ = train(method="rslora")
    assert all(torch.equal(tensor, weights(new)[name]) for name, tensor in weights(old).items())
    assert new.adapter_config()["use_rslora"]
    Lora(method="rslora", use_rslora=True)
    with pytest.raises(BadValue, match="asks for the method `rslora`, and `method` is `dora`"):
        Lora(method="dora", use_rslora=True)


def test_what_dropout_leaves_out_is_said(train: Train) -> None:
    _, context = train(method="loha", dropout=0.1)
    assert any("left out outputs" in entry.get("note", "") for entry in context.journal)
    made, context = train(method="lokr", dropout=0.0, modules=("q_proj",))
    assert not any("left out" in entry.get("note", "") for entry in context.journal)
    assert [entry["how"] for entry in context.journal if "changed" in entry] == [
        "2 layers, rank 16, alpha 16, lokr"
    ]
    assert made.adapter_config()["target_modules"] == ["q_proj"]


def test_layers_that_a_method_is_not_made_for_are_refused(tmp_path: Path, llama: HfModel) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**llama.config(), "model_type": "gpt2"}))
    (tmp_path / "model.safetensors").write_bytes((llama.path / "model.safetensors").read_bytes())
    for method in ("loha", "lokr"):
        with pytest.raises(Refused, match="`q_proj` of `gpt2` is stored inputs first"):
            Lora(data="x", method=method, modules=("q_proj",)).check(HfModel(tmp_path), Target())  # type: ignore[arg-type]
    Lora(data="x", method="dora", modules=("q_proj",)).check(HfModel(tmp_path), Target())


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_forecast_counts_the_numbers_that_are_trained(method: Any, rank: int, llama: HfModel) -> None:
    form = AdapterForm(
        rank=rank, alpha=8.0, dropout=0.0, modules=("down_proj",), modules_to_save=(), method=method
    )
    adapted = add_adapter(AutoModelForCausalLM.from_pretrained(llama.path), form)
    counted = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert 2 * _trained(form, 96, 64) == counted  # two layers


def test_the_forecast_knows_what_is_written_out(llama: HfModel) -> None:
    profile = llama.profile()

    def memory(method: Any) -> int:
        return Lora(data="x", method=method, rank=1).forecast(profile, Target(), machine(), {}).memory

    kept = 4 * profile.linear
    assert memory("lora") == memory("rslora") < memory("dora") < memory("lora") + kept
    assert min(memory("loha"), memory("lokr")) > memory("lora") + kept


PHRASES = "".join(f'{{"phrase": "phrase {i} {"so " * (i % 4)}", "tone": "joy"}}\n' for i in range(12))


def phrases(folder: Path) -> Mapping[str, DataConfig]:
    path = folder / "phrases.jsonl"
    path.write_text(PHRASES)
    return {"phrases": DataConfig(files=(str(path),), template="{phrase}: {tone}", holdout=0.3)}


def fused(folder: Path) -> HfModel:
    return tiny_model(folder, layout="phi3")


FEW_STEPS = Settings({"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3})


class TestDora(PassContract):
    a_pass = Lora(data="phrases", rank=4, method="dora", modules=("qkv_proj", "o_proj"), training=FEW_STEPS)
    a_model = staticmethod(fused)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(tiny_model)


class TestLoha(PassContract):
    a_pass = Lora(data="phrases", rank=4, method="loha", modules=("qkv_proj", "o_proj"), training=FEW_STEPS)
    a_model = staticmethod(fused)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(tiny_model)


class TestLokr(PassContract):
    a_pass = Lora(data="phrases", rank=4, method="lokr", modules=("qkv_proj", "o_proj"), training=FEW_STEPS)
    a_model = staticmethod(fused)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(tiny_model)
