from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from picual.data.files import rows
from picual.data.sequences import sequences
from picual.data.split import holdout_rows, train_rows
from picual.errors import BadValue, Refused, StepFailed, UnknownName
from picual.hardware import Target, machine
from picual.models import HfAdapter, HfModel
from picual.passes.base import AdapterTrained, PassContext
from picual.passes.finetune.checkpoints import newest, step_of
from picual.passes.finetune.lora import Lora
from picual.space import Settings
from picual.testing import tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]


def weights(adapter: HfAdapter) -> dict[str, torch.Tensor]:
    return load_file(adapter.path / "adapter_model.safetensors")


def assert_close(one: HfAdapter, other: HfAdapter, *, atol: float = 2e-6) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=atol)


def notes(context: PassContext) -> str:
    return "\n".join(entry["note"] for entry in context.journal if "note" in entry)


def by_hand(model: HfModel, context: PassContext, steps: int, batch: int) -> dict[str, torch.Tensor]:
    """Train as a textbook would: all logits, AdamW, the rows in their order."""
    config = context.data["tones"]
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    made = sequences(train_rows(rows(config), config), config, tokenizer).sequences
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    torch.manual_seed(7)
    form = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    with pytest.warns(FutureWarning):
        adapted: Any = get_peft_model(network, form)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        group = made[step * batch : (step + 1) * batch]
        total = torch.zeros(())
        for row in group:  # one at a time: nothing is padded
            ids = torch.tensor([row.input_ids])
            logits = adapted(input_ids=ids).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        (total / sum(len(row.input_ids) - 1 for row in group)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.detach() for name, tensor in adapted.state_dict().items() if "lora_" in name}


CONSTANT = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "max_grad_norm": 0.0,
}


def test_the_adapter_is_the_one_of_a_training_by_hand(train: Train, llama: HfModel) -> None:
    form: dict[str, Any] = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "modules": ("q_proj", "up_proj")}
    made, context = train(training={**CONSTANT, "per_device_train_batch_size": 6}, data={"holdout": 0.2}, **form)
    expected = by_hand(llama, context, steps=3, batch=6)
    found = weights(made)
    assert len(found) == len(expected) == 8
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name.replace(".default", "")], tensor, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_step_is_the_same_however_it_is_cut_into_batches(batch: int, train: Train) -> None:
    whole, _ = train(training={**CONSTANT, "per_device_train_batch_size": 6}, dropout=0.0)
    cut, _ = train(
        training={**CONSTANT, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 6 // batch},
        dropout=0.0,
    )
    assert_close(whole, cut)


@pytest.mark.parametrize("data", [{"pad": True, "max_length": 60}, {"attention_mask": False}])
def test_padding_and_mask_do_not_change_what_is_learnt(data: dict[str, Any], train: Train) -> None:
    plain, _ = train(training=CONSTANT, dropout=0.0)
    other, _ = train(training=CONSTANT, dropout=0.0, data=data)
    assert_close(plain, other)


@pytest.mark.parametrize(
    "training",
    [
        {"gradient_checkpointing": True},
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    ],
)
def test_recomputed_activations_give_the_same_adapter(training: dict[str, Any], train: Train) -> None:
    plain, _ = train(training=CONSTANT, dropout=0.0)
    other, _ = train(training={**CONSTANT, **training}, dropout=0.0)
    assert_close(plain, other)


def test_the_result_holds_the_adapter_its_config_and_the_tokenizer_alone(train: Train, llama: HfModel) -> None:
    made, context = train(modules=("v_proj", "o_proj"), use_rslora=True)
    assert made == HfAdapter(context.folder, base=llama)
    companions = {file.name for file in llama.companions()}
    assert {file.name for file in made.path.iterdir()} == companions | {
        "adapter_model.safetensors",
        "adapter_config.json",
        "trained_on.json",
    }
    config = made.adapter_config()
    assert config["base_model_name_or_path"] == ""
    assert config["target_modules"] == ["o_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (16, 16, True)
    assert {name.split(".")[-3] for name in weights(made)} == {"v_proj", "o_proj"}
    assert [entry["changed"] for entry in context.journal if "changed" in entry] == ["v_proj", "o_proj"]


def test_left_out_modules_are_all_linear_layers_but_the_head(train: Train, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "untied", tied=False)
    made, _ = train(model=model, training={"max_steps": 1})
    adapted = {name.split(".")[-3] for name in weights(made)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert Lora(data="x").promises() == (AdapterTrained(modules=("all-linear",)),)


def test_modules_to_save_are_trained_and_kept(train: Train, llama: HfModel) -> None:
    made, _ = train(modules=("q_proj",), modules_to_save=("norm",), training={"learning_rate": 0.1})
    (name,) = [name for name in weights(made) if name.endswith("model.norm.weight")]
    stored = load_file(llama.path / "model.safetensors")["model.norm.weight"]
    assert not torch.equal(weights(made)[name], stored)


def test_the_evaluation_is_the_mean_over_every_label_of_the_holdout(train: Train, llama: HfModel) -> None:
    made, context = train(data={"holdout": 0.3}, training={"evaluation_strategy": "steps", "eval_steps": 187})
    config = context.data["tones"]
    held = holdout_rows(rows(config), config)
    tokenizer = AutoTokenizer.from_pretrained(llama.path)
    network = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    with pytest.warns(FutureWarning):
        adapted = PeftModel.from_pretrained(network, str(made.path)).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in sequences(held, config, tokenizer).sequences:
            ids = torch.tensor([row.input_ids])
            total += float(adapted(input_ids=ids, labels=ids).loss) * (len(row.input_ids) - 1)
            count += len(row.input_ids) - 1
    assert context.metrics["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    assert (context.metrics["train_rows"], context.metrics["eval_rows"]) == (17, 7)


def test_a_holdout_is_evaluated_once_although_nobody_asked(train: Train) -> None:
    _, context = train(data={"holdout": 0.3})
    assert math.isfinite(context.metrics["eval_loss"])
    assert "eval_loss" not in train()[1].metrics


def test_losses_and_progress_are_told(llama: HfModel, tmp_path: Path, train: Train) -> None:
    _, before = train()
    told: list[tuple[str, dict[str, Any]]] = []
    context = PassContext(
        folder=tmp_path / "o", scratch=tmp_path / "s", data=before.data, threads=1,
        on_event=lambda name, values: told.append((name, dict(values))),
    )  # fmt: skip
    for folder in (context.folder, context.scratch):
        folder.mkdir()
    seen: list[tuple[float, float]] = []
    context.on_progress = lambda done, total, _note: seen.append((done, total))
    Lora(data="tones", training=Settings({"max_steps": 4, "logging_steps": 2})).run(llama, context)
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(name, values["step"]) for name, values in told] == [("loss", 2), ("loss", 4)]
    assert set(told[0][1]) == {"step", "loss", "learning_rate", "tokens_per_s"}
    assert context.metrics["steps"] == 4
    mean = (told[0][1]["loss"] + told[1][1]["loss"]) / 2
    assert context.metrics["train_loss"] == pytest.approx(mean, rel=1e-5)
    json.dumps([told, context.metrics, context.journal])


@pytest.mark.parametrize("greater", [None, True])  # the least loss; the greatest only to be sure of another step
def test_the_best_evaluation_is_kept_when_asked_for(greater: bool | None, train: Train) -> None:
    training = {
        "max_steps": 5, "learning_rate": 0.5, "lr_scheduler_type": "constant", "load_best_model_at_end": True,
        "eval_steps": 1,
    } | ({} if greater is None else {"greater_is_better": greater})  # fmt: skip
    made, context = train(training=training, data={"holdout": 0.3})
    state = json.loads((context.scratch / "checkpoint-5" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = (max if greater else min)(losses, key=lambda step: losses[step])
    assert best < 5, "the test wants a training whose last step is not the best"
    assert context.metrics["eval_loss"] == losses[best]
    again, _ = train(training=training, data={"holdout": 0.3}, scratch=context.scratch)
    assert weights(again).keys() == weights(made).keys()
    assert all(torch.equal(tensor, weights(made)[name]) for name, tensor in weights(again).items())


def test_a_finished_training_is_not_trained_further(train: Train) -> None:
    first, before = train(training={"max_steps": 4}, data={"holdout": 0.3})  # stops within an epoch
    again, after = train(training={"max_steps": 4}, data={"holdout": 0.3}, scratch=before.scratch)
    assert_close(first, again, atol=0.0)
    assert after.metrics == before.metrics


def test_a_loss_that_is_not_finite_stops_the_step_and_keeps_its_checkpoints(train: Train, tmp_path: Path) -> None:
    scratch = tmp_path / "kept"
    scratch.mkdir()
    with pytest.raises(StepFailed, match=r"the loss is nan at step \d") as caught:
        train(
            training={"max_steps": 30, "learning_rate": 1e30, "max_grad_norm": 0.0, "save_steps": 1},
            scratch=scratch,
        )
    step = int(caught.value.what.split("step ")[1].split(",")[0])
    kept = newest(scratch)
    assert kept is not None
    assert step_of(kept) == step - 1


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_other_precisions_train_nearly_the_same(dtype: str, train: Train) -> None:
    exact, _ = train(training={"learning_rate": 1e-2}, dropout=0.0)
    other, context = train(training={"learning_rate": 1e-2}, dropout=0.0, dtype=dtype)
    assert all(tensor.dtype == torch.float32 for tensor in weights(other).values())
    moved = [name for name in weights(exact) if "lora_B" in name]
    left = torch.cat([weights(exact)[name].flatten() for name in moved])
    right = torch.cat([weights(other)[name].flatten() for name in moved])
    assert float(torch.nn.functional.cosine_similarity(left, right, dim=0)) > 0.8
    assert math.isfinite(context.metrics["train_loss"])


def test_mixed_precision_trains_and_leaves_nothing_behind(train: Train) -> None:
    before, _ = train(dropout=0.0)
    mixed, context = train(training={"bf16": True}, dropout=0.0)
    after, _ = train(dropout=0.0)
    assert_close(before, after, atol=0.0)
    assert any(not torch.equal(tensor, weights(before)[name]) for name, tensor in weights(mixed).items())
    assert math.isfinite(context.metrics["train_loss"])
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "training",
    [
        {"label_smoothing_factor": 0.1}, {"neftune_noise_alpha": 5.0}, {"optim": "adafactor"}, {"optim": "sgd"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
        {"weight_decay": 0.5}, {"adam_beta2": 0.5}, {"max_grad_norm": 1e-4}, {"data_seed": 3}, {"seed": 3},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 5}, {"warmup_steps": 2},
        {"train_sampling_strategy": "sequential"}, {"eval_on_start": True, "save_strategy": "no"},
        {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "eval_loss"},
        {"torch_compile": False, "auto_find_batch_size": True, "logging_strategy": "epoch"},
        {"save_strategy": "epoch", "logging_first_step": True, "torch_empty_cache_steps": 1},
    ],
)  # fmt: skip
def test_every_argument_that_counts_trains(training: dict[str, Any], train: Train) -> None:
    settings = {"learning_rate": 1e-2, "max_steps": 4}
    made, context = train(training={**settings, **training}, data={"holdout": 0.3}, modules=("q_proj",))
    assert context.metrics["steps"] == 4
    assert math.isfinite(context.metrics["eval_loss"])
    assert newest(context.scratch) == context.scratch / "checkpoint-4"
    assert all(bool(tensor.isfinite().all()) for tensor in weights(made).values())
    changes_the_result = not {"eval_strategy", "eval_on_start", "torch_compile", "save_strategy"} & set(training)
    plain, _ = train(training=settings, data={"holdout": 0.3}, modules=("q_proj",))
    same = all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(made).items())
    assert same != changes_the_result, "an argument without effect, or one that should have none"


def test_float16_without_a_gpu_is_float32_and_says_so(train: Train) -> None:
    made, context = train(dtype="float16")
    exact, _ = train()
    assert "needs a GPU" in notes(context)
    assert_close(made, exact, atol=0.0)


def test_a_network_that_scales_its_logits_keeps_its_own_loss(train: Train, tmp_path: Path, llama: HfModel) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "logits_scaling": 3.0,
    }  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.for_model("granite", **sizes)).save_pretrained(
        tmp_path / "granite"
    )
    AutoTokenizer.from_pretrained(llama.path).save_pretrained(tmp_path / "granite")
    model = HfModel(tmp_path / "granite")
    settings = {**CONSTANT, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    made, context = train(
        model=model, training=settings, dropout=0.0, rank=4, alpha=8.0, modules=("q_proj", "up_proj")
    )
    assert "the network's own" in notes(context)
    expected = by_hand(model, context, steps=3, batch=6)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights(made)[name.replace(".default", "")], tensor, rtol=1e-4, atol=2e-6)


def test_data_that_the_step_does_not_have_is_named(llama: HfModel, tmp_path: Path) -> None:
    context = PassContext(folder=tmp_path, scratch=tmp_path, data={})
    with pytest.raises(UnknownName, match="unknown data set `tones`"):
        Lora(data="tones").run(llama, context)
    with pytest.raises(BadValue, match="`lora` needs `data`"):
        Lora().check(llama, Target())


@pytest.mark.parametrize(
    ("fields", "what", "hint"),
    [
        ({"modules": ("qkv_proj",)}, "the model has no linear layer `qkv_proj`", "q_proj, k_proj, v_proj"),
        ({"modules": ("q_proj", "attention.o_proj")}, "no linear layer `attention.o_proj`", "`o_proj`"),
        ({"modules": ("embed_tokens",)}, "no linear layer `embed_tokens`", "it can be"),
        ({"modules_to_save": ("lm_heat",)}, "`lm_heat`", "did you mean `lm_head`"),
    ],
)
def test_check_refuses_modules_that_are_not_there(
    fields: dict[str, Any], what: str, hint: str, llama: HfModel
) -> None:
    with pytest.raises(Refused, match="no") as caught:
        Lora(data="x", **fields).check(llama, Target())
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize("fields", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_numbers_outside_their_domain_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match="must be"):
        Lora(**fields)


def test_experts_have_to_be_named(tmp_path: Path, llama: HfModel) -> None:
    config = {**llama.config(), "num_local_experts": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((llama.path / "model.safetensors").read_bytes())
    with pytest.raises(Refused, match="experts"):
        Lora(data="x").check(HfModel(tmp_path), Target())
    Lora(data="x", modules=("q_proj",)).check(HfModel(tmp_path), Target())


def test_an_argument_that_transformers_refuses_is_a_bad_value(train: Train) -> None:
    with pytest.raises(BadValue, match="transformers refuses the training arguments"):
        train(training={"optim": "adamw_tortch"})


def test_the_forecast_grows_with_what_costs(llama: HfModel, tmp_path: Path, train: Train) -> None:
    from picual.data.files import count_rows

    _, context = train()
    rows_ = {"tones": count_rows(context.data["tones"])}
    profile = llama.profile()

    def of(**fields: Any) -> Any:
        return Lora(data="tones", **fields).forecast(profile, Target(), machine(), rows_)

    plain = of()
    assert of(rank=64).memory > plain.memory
    assert of(rank=64).disk > plain.disk
    assert of(modules=("q_proj",)).memory < plain.memory
    assert of(training=Settings({"per_device_train_batch_size": 1})).memory < plain.memory
    assert of(training=Settings({"num_train_epochs": 30})).seconds > plain.seconds
    assert of(training=Settings({"learning_rat": 1, "max_steps": 2})).seconds < plain.seconds
