from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from picual.errors import BadValue
from picual.passes.finetune import argument_names as names
from picual.passes.finetune.training_arguments import Here, check_arguments, problems, read, settle, steps_of

REAL = {item.name: str(item.type) for item in dataclasses.fields(TrainingArguments)}
EARLY = inspect.signature(EarlyStoppingCallback.__init__).parameters
REAL |= {name: str(one.annotation) for name, one in EARLY.items() if name != "self"}


def here(tmp_path: Path, **fields: Any) -> Here:
    return Here(**{"sequences": 100, "evaluates": True, "gpu": False, "seed": 3, "scratch": tmp_path, **fields})


def test_every_argument_of_transformers_is_honoured_renamed_or_explained() -> None:
    told = {*names.HONOURED, *names.WITHOUT_EFFECT, *names.RENAMED, *names.FLAGS}
    assert set(REAL) - told == set()
    assert set(names.HONOURED) - set(REAL) == set(), "honoured, and transformers has no such argument"
    assert set(names.RENAMED.values()) <= set(names.HONOURED)
    assert not set(names.HONOURED) & set(names.WITHOUT_EFFECT)
    assert all(reason for reason in names.WITHOUT_EFFECT.values())


def test_the_choices_are_those_of_transformers() -> None:
    assert set(names.CHOICES["lr_scheduler_type"]) == {one.value for one in SchedulerType}
    assert set(names.CHOICES["eval_strategy"]) == {one.value for one in IntervalStrategy}
    assert set(names.CHOICES["save_strategy"]) == {one.value for one in SaveStrategy}


@pytest.mark.parametrize("name", sorted(names.HONOURED))
def test_the_kind_of_an_argument_is_that_of_transformers(name: str) -> None:
    real = REAL[name]
    words = {"whole": "int", "number": "float", "flag": "bool", "text": "str", "mapping": "dict", "any": ""}
    assert words[names.HONOURED[name]] in real, real


def test_old_names_are_read_as_their_present_ones_with_a_note() -> None:
    found = read({
        "evaluation_strategy": "steps", "group_by_length": True, "warmup_ratio": 0.03, "no_cuda": True,
        "gradient_checkpointing": False, "per_gpu_train_batch_size": 2, "adafactor": True,
    })  # fmt: skip
    assert found.values == {
        "eval_strategy": "steps", "train_sampling_strategy": "group_by_length", "warmup_steps": 0.03,
        "use_cpu": True, "activation_checkpointing": False, "per_device_train_batch_size": 2, "optim": "adafactor",
    }  # fmt: skip
    assert len(found.notes) == 7
    assert "`training.evaluation_strategy` is now called `eval_strategy`" in found.notes


def test_what_is_gone_or_fixed_is_named_in_a_note_with_its_reason() -> None:
    given = {
        "output_dir": "x", "overwrite_output_dir": True, "logging_dir": "y", "fp16_opt_level": "O1",
        "report_to": "wandb", "push_to_hub": True, "deepspeed": "z.json", "full_determinism": True,
    }  # fmt: skip
    found = read(given)
    assert not found.values
    assert len(found.notes) == len(given)
    for name, note in zip(given, found.notes, strict=True):
        assert note == f"`training.{name}` has no effect: {names.WITHOUT_EFFECT[name]}"


def test_what_happens_anyway_needs_no_note() -> None:
    given = {"push_to_hub": False, "report_to": "none", "group_by_length": False, "learning_rate": None}
    found = read(given)
    assert not found.values
    assert found.notes in {(), ("`training.group_by_length` is now called `train_sampling_strategy`",)}


@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ({"learning_rat": 1}, "unknown training argument `learning_rat`", "`learning_rate`"),
        ({"evaluation_stratgy": "no"}, "unknown training argument", "`evaluation_strategy`"),
        ({"learning_rate": "fast"}, "`learning_rate` is 'fast'; it must be a number", ""),
        ({"max_steps": 1.5}, "`max_steps` is 1.5; it must be a whole number", ""),
        ({"bf16": "yes"}, "`bf16` is 'yes'; it must be true or false", ""),
        ({"group_by_length": 1}, "`group_by_length` is 1; it must be true or false", ""),
        ({"lr_scheduler_type": "cosin"}, "there is no such choice", "`cosine`"),
        ({"eval_strategy": "never"}, "there is no such choice", ""),
        ({"per_device_train_batch_size": 0}, "it must be at least 1", ""),
        ({"learning_rate": -1.0}, "it must not be negative", ""),
        ({"metric_for_best_model": "f1"}, "training measures the loss alone", "loss"),
        ({"eval_strategy": "no", "evaluation_strategy": "no"}, "say the same thing", "keep `eval_strategy`"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(given: dict[str, Any], what: str, hint: str) -> None:
    ((name, sentence, remedy),) = problems(given)
    assert name == list(given)[-1]
    assert what in sentence
    assert hint in remedy
    assert len(check_arguments(given)) == 1
    with pytest.raises(BadValue, match="`"):
        read(given)


def test_numbers_may_be_written_as_yaml_reads_them() -> None:
    assert read({"learning_rate": "1e-4", "warmup_steps": "10"}).values == {
        "learning_rate": 1e-4,
        "warmup_steps": 10,
    }


def test_where_the_recipe_is_silent_the_step_decides(tmp_path: Path) -> None:
    settled = settle({}, here(tmp_path)).values
    assert settled["seed"] == 3
    assert settled["use_cpu"] is True
    assert (settled["save_strategy"], settled["save_steps"], settled["logging_steps"]) == ("steps", 39, 1)
    assert settled["save_total_limit"] == 2
    assert settle({"seed": 9, "save_steps": 50}, here(tmp_path)).values["seed"] == 9
    arguments = TrainingArguments(**settled)
    assert arguments.report_to == []
    assert arguments.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("given", "fields", "note"),
    [
        ({"fp16": True}, {}, "`training.fp16` has no effect: it needs a GPU"),
        ({"tf32": True}, {}, "`training.tf32` has no effect"),
        ({"optim": "paged_adamw_32bit"}, {}, "`paged_adamw_32bit` needs a GPU"),
        ({"save_total_limit": 1}, {}, "`training.save_total_limit` is 2"),
        ({"eval_strategy": "steps"}, {"evaluates": False}, "nothing to evaluate on"),
        ({"load_best_model_at_end": True}, {"evaluates": False}, "nothing to evaluate on"),
        ({"train_sampling_strategy": "batch_rebalance"}, {}, "group_by_length"),
    ],
)
def test_what_cannot_be_here_is_replaced_with_a_note(
    given: dict[str, Any], fields: dict[str, Any], note: str, tmp_path: Path
) -> None:
    settled = settle(given, here(tmp_path, **fields))
    assert any(note in one for one in settled.notes), settled.notes
    TrainingArguments(**settled.values)


@pytest.mark.parametrize(
    "given",
    [
        {"load_best_model_at_end": True},
        {"load_best_model_at_end": True, "eval_steps": 7, "save_steps": 5},
        {"load_best_model_at_end": True, "eval_strategy": "epoch"},
        {"load_best_model_at_end": True, "save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3},
    ],
)
def test_the_best_can_be_kept_whatever_else_is_said(given: dict[str, Any], tmp_path: Path) -> None:
    TrainingArguments(**settle(given, here(tmp_path)).values)


@pytest.mark.parametrize(
    ("given", "sequences", "steps"),
    [
        ({}, 100, 39),
        ({"max_steps": 10}, 100, 10),
        ({"num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 25, 3),
        ({"num_train_epochs": 0.5, "per_device_train_batch_size": 1}, 9, 5),
        ({"num_train_epochs": 1, "dataloader_drop_last": True}, 15, 1),
    ],
)
def test_the_steps_of_a_training_are_known_before_it(given: dict[str, Any], sequences: int, steps: int) -> None:
    assert steps_of(given, sequences) == steps


def test_checking_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from picual.passes import registry\n"
        "from picual.passes.finetune.training_arguments import check_arguments\n"
        "registry.load('lora'); check_arguments({'max_steps': 1})\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
