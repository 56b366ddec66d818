"""``training:`` of a recipe, as the arguments of the installed ``transformers``; with a note for what changed.

Every name is honoured, mapped to its present one, or named in a note that says why it has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.errors import BadValue, nearest
from picual.passes.finetune.argument_names import CHOICES, FLAGS, HONOURED, RENAMED, WITHOUT_EFFECT

WORDS = {
    "whole": "a whole number", "number": "a number", "flag": "true or false", "text": "text",
    "mapping": "a mapping",
}  # fmt: skip
AT_LEAST_ONE = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "early_stopping_patience",
)  # fmt: skip
ABOVE_ZERO = ("num_train_epochs", "eval_steps", "save_steps", "logging_steps")
EVALUATIONS = 10  # of a run that keeps the best of its checkpoints
LOGS = 50  # losses in a run
CHECKPOINTS_KEPT = 2
# These optimizers come from a package of their own, mostly for GPUs.
SPECIAL_OPTIMIZERS = ("bnb", "paged_", "8bit", "4bit", "32bit")


@dataclass(frozen=True)
class Read:
    """Arguments under their present names, and what there is to say about them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def problems(training: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what is wrong with ``training:``: name, sentence and hint of each. Imports nothing heavy."""
    found = []
    present: dict[str, str] = {}
    for name, value in training.items():
        now, settled = _present(name, value)
        if now not in HONOURED and now not in WITHOUT_EFFECT:
            known = [*HONOURED, *WITHOUT_EFFECT, *RENAMED, *FLAGS]
            hint = nearest(name, known) or "it takes the names of transformers' TrainingArguments"
            found.append((name, f"unknown training argument `{name}`", hint))
        elif now in present:
            found.append((name, f"`{name}` and `{present[now]}` say the same thing", f"keep `{now}`"))
        elif complaint := _complaint(name, now, settled):
            found.append((name, *complaint))
        present.setdefault(now, name)
    return found


def check_arguments(training: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each thing that is wrong with ``training``, with its remedy."""
    return [f"{what}; {hint}" if hint else what for _, what, hint in problems(training)]


def read(training: Mapping[str, Any]) -> Read:
    """Return the arguments that count, under their present names.

    Raises:
        BadValue: A name is unknown, or a value is not of its kind.
    """
    for _, what, hint in problems(training):
        raise BadValue(what, where="training", hint=hint)
    values: dict[str, Any] = {}
    notes = []
    for name, value in training.items():
        if value is None:
            continue
        now, settled = _present(name, value)
        if now in WITHOUT_EFFECT:
            if not _asks_for_nothing(now, value):
                notes.append(f"`training.{name}` has no effect: {WITHOUT_EFFECT[now]}")
            continue
        if now != name:
            notes.append(f"`training.{name}` is now called `{now}`")
        if settled is not None:
            values[now] = _number(settled) if HONOURED[now] in {"whole", "number"} else settled
    return Read(values, tuple(notes))


def known(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments that count as far as they are right: for a forecast, which must not fail."""
    wrong = {name for name, _, _ in problems(training)}
    return read({name: value for name, value in training.items() if name not in wrong}).values


def _present(name: str, value: Any) -> tuple[str, Any]:
    """Return the present name of an argument and its value there; None where the flag asks for nothing."""
    if name in FLAGS:
        now, set_to = FLAGS[name]
        if isinstance(value, bool):
            return now, set_to if value else None
        return now, value
    return RENAMED.get(name, name), value


def _asks_for_nothing(name: str, value: Any) -> bool:
    """Say whether a value is what happens anyway, so that no note is needed."""
    return value is False or value in ([], {}, "none", "") or (name == "average_tokens_across_devices")


def _complaint(name: str, now: str, value: Any) -> tuple[str, str] | None:
    kind = HONOURED.get(now)
    if value is None or kind is None:
        return None
    wrong, hint = "", ""
    if name in FLAGS and not isinstance(value, str):
        wrong = f"it must be {WORDS['flag']}"
    elif not _fits(kind, value):
        wrong = f"it must be {WORDS[kind]}"
    elif now in CHOICES and value not in CHOICES[now]:
        wrong, hint = "there is no such choice", nearest(value, CHOICES[now])
    elif now == "metric_for_best_model" and value not in {"loss", "eval_loss"}:
        wrong, hint = "training measures the loss alone", "metric_for_best_model: loss"
    elif now in AT_LEAST_ONE and value < 1:
        wrong = "it must be at least 1"
    elif now in ABOVE_ZERO and _number(value) <= 0:
        wrong = "it must be more than 0"
    elif now == "max_steps" and value == 0:
        wrong, hint = "no step would be made", "max_steps: 100, or leave it out and give num_train_epochs"
    elif kind == "number" and _number(value) < 0:
        wrong = "it must not be negative"
    return (f"`{name}` is {value!r}; {wrong}", hint) if wrong else None


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "flag":
            return isinstance(value, bool)
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return not isinstance(value, bool) and isinstance(value, int | float | str) and _is_number(value)
        case "text":
            return isinstance(value, str)
        case "mapping":
            return isinstance(value, Mapping)
    return True


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _number(value: Any) -> Any:
    """Return a number; YAML reads ``1e-4`` as text."""
    return float(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Here:
    """What this machine and this data offer the training.

    Attributes:
        sequences: To train on.
        evaluates: Whether there is evaluation data.
        gpu: Whether torch sees a GPU.
        seed: Of the step.
        scratch: Where checkpoints go.
    """

    sequences: int
    evaluates: bool
    gpu: bool
    seed: int
    scratch: Path


def steps_of(values: Mapping[str, Any], sequences: int) -> int:
    """Return the optimizer steps of a training on so many sequences."""
    if (most := int(values.get("max_steps", -1))) > 0:
        return most
    batch = int(values.get("per_device_train_batch_size", 8))
    batches = sequences // batch if values.get("dataloader_drop_last") else -(-sequences // batch)
    steps = max(-(-batches // int(values.get("gradient_accumulation_steps", 1))), 1)
    return max(math.ceil(float(values.get("num_train_epochs", 3.0)) * steps), 1)


def settle(values: Mapping[str, Any], here: Here) -> Read:
    """Return the arguments for ``TrainingArguments``: ours where the recipe is silent, notes for what cannot be.

    Args:
        values: Of ``read``.
        here: The machine and the data.
    """
    steps = steps_of(values, here.sequences)
    settled: dict[str, Any] = {
        "seed": here.seed, "save_strategy": "steps", "save_steps": steps,  # in between, the trainer saves by time
        "logging_steps": max(steps // LOGS, 1), **values,
    }  # fmt: skip
    notes: list[str] = []
    _fit_to_machine(settled, here, notes)
    _fit_to_data(settled, here, notes)
    if "early_stopping_threshold" in settled and "early_stopping_patience" not in settled:
        notes.append("`training.early_stopping_threshold` has no effect without `early_stopping_patience`")
    if settled.get("early_stopping_patience"):
        settled.setdefault("load_best_model_at_end", True)
        if settled.get("eval_strategy", "no") == "no":
            settled["eval_strategy"] = "steps"
    if settled.get("load_best_model_at_end"):
        _keep_the_best(settled, every=values.get("save_steps", max(steps // EVALUATIONS, 1)))
    keep = settled.get("save_total_limit")
    if keep is not None and keep < CHECKPOINTS_KEPT:
        notes.append(f"`training.save_total_limit` is {CHECKPOINTS_KEPT}: a kill may spoil the newest checkpoint")
    settled["save_total_limit"] = max(keep or CHECKPOINTS_KEPT, CHECKPOINTS_KEPT)
    settled |= {
        "output_dir": str(here.scratch), "report_to": "none", "disable_tqdm": True, "label_names": ["labels"],
        "remove_unused_columns": False, "logging_nan_inf_filter": False, "average_tokens_across_devices": False,
    }  # fmt: skip
    return Read(settled, tuple(notes))


def _fit_to_machine(settled: dict[str, Any], here: Here, notes: list[str]) -> None:
    settled["use_cpu"] = bool(settled.get("use_cpu")) or not here.gpu
    optimizer = str(settled.get("optim", ""))
    if any(mark in optimizer for mark in SPECIAL_OPTIMIZERS) and settled["use_cpu"]:
        notes.append(f"`training.optim` is `adamw_torch_fused`: `{optimizer}` needs a GPU")
        settled["optim"] = "adamw_torch_fused"
    if not settled["use_cpu"]:
        return
    settled["dataloader_pin_memory"] = False  # it is for the way to a GPU
    asked = [name for name in ("fp16", "tf32", "use_liger_kernel") if settled.pop(name, None)]
    notes += [f"`training.{name}` has no effect: it needs a GPU" for name in asked]


def _fit_to_data(settled: dict[str, Any], here: Here, notes: list[str]) -> None:
    if settled.get("train_sampling_strategy") == "batch_rebalance":
        notes.append("`training.train_sampling_strategy` is `group_by_length`: one device has nothing to balance")
        settled["train_sampling_strategy"] = "group_by_length"
    if here.evaluates:
        return
    wants = settled.pop("eval_strategy", "no") != "no"
    wants = bool(settled.pop("eval_on_start", False)) or wants
    wants = bool(settled.pop("load_best_model_at_end", False)) or wants
    wants = settled.pop("early_stopping_patience", None) is not None or wants
    if wants:
        notes.append("there is nothing to evaluate on: give `eval_data`, or a `holdout` to the data")
    if settled.get("save_strategy") == "best":
        settled["save_strategy"] = "steps"


def _keep_the_best(settled: dict[str, Any], every: Any) -> None:
    """Make evaluations and checkpoints fall together: whichever evaluation is the best, its weights are there."""
    if settled.get("eval_strategy", "no") == "no":
        settled["eval_strategy"] = "steps"
    if settled["save_strategy"] == "best":
        return
    settled["save_strategy"] = settled["eval_strategy"]
    if settled["eval_strategy"] == "steps":
        settled.setdefault("eval_steps", every)
        settled["save_steps"] = settled["eval_steps"]
