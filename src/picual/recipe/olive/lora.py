"""Olive's LoRA and QLoRA as ours: their parameters under both names, and where they have no counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.passes.finetune.argument_names import FLAGS, HONOURED, RENAMED
from picual.recipe.olive.context import Context
from picual.recipe.olive.domains import each
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader, flag_of, number_of, unquoted, whole_number
from picual.recipe.olive.step import Step

_QLORA: Reason = ("ignored", "belongs to QLoRA; LoRA trains on the unquantized base")
_TRAINING: Reason = ("ignored", "give it under `training`")
_FOUR_BIT: dict[str, Reason] = {
    "double_quant": _QLORA,
    "quant_type": _QLORA,
    "compute_dtype": _QLORA,
    "save_quant_config": _QLORA,
}
_SAVED: dict[str, Reason] = {
    "save_quant_config": ("mapped", "an adapter always says how its base was held, in `trained_on.json`"),
}
UNUSED: dict[str, Reason] = {
    "use_ort_trainer": ("ignored", "transformers' trainer is the only one"),
    "ortmodule_onnx_opset_version": ("ignored", "transformers' trainer is the only one"),
    "device_map": ("ignored", "Picual places the model on the device of its host"),
    "allow_tf32": ("ignored", "`training: {tf32: ...}` says so"),
    "ephemeral_gpu_offload": ("ignored", "it is for DoRA on GPUs with little memory"),
    "bias": ("ignored", "LoRA here trains no biases"),
    "task_type": ("mapped", "the model generates text"),
    "use_rslora": ("mapped", "becomes `use_rslora`"),
    "batch_size": _TRAINING,
    "learning_rate": _TRAINING,
    "max_steps": _TRAINING,
    "num_train_epochs": _TRAINING,
    "val_data_config": ("ignored", "`eval_data_config` is its name"),
}
# Parameter of Olive, in both forms -> field of ours, and what Olive takes when it is left out.
_FIELDS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("r", "lora_r"), "rank", 64),
    (("alpha", "lora_alpha"), "alpha", 16),
    (("lora_dropout",), "dropout", 0.05),
    (("target_modules",), "modules", None),
    (("modules_to_save",), "modules_to_save", None),
    (("use_rslora",), "use_rslora", None),
    (("torch_dtype",), "dtype", None),
)
# Those of QLoRA alone.
_FOUR_BIT_FIELDS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("double_quant",), "double_quant", None),
    (("quant_type",), "quant_type", None),
    (("compute_dtype",), "compute_dtype", None),
)
_RANKS = (16, 32, 64)  # that Olive searches
_LISTS = ("modules", "modules_to_save")
KNOWN = (
    *(name for names, _, _ in _FIELDS for name in names), *UNUSED, *_FOUR_BIT,
    "train_data_config", "eval_data_config", "eval_dataset_size", "training_args",
)  # fmt: skip
KNOWN_OF_LOFTQ = (*KNOWN, "loftq_iter")


def read_qlora(context: Context, step: Step) -> dict[str, Any]:
    """Return the fields of `qlora`."""
    for names, ours, default in _FOUR_BIT_FIELDS:
        _field(step, names, ours, default)
    if "compute_dtype" in step.fields:
        step.fields["compute_dtype"] = each(step.fields["compute_dtype"], lambda value: _compute(step, value))
    else:
        text = "left out: `auto`, by device (Olive: bfloat16)"
        step.reader.ledger.note(step.path("compute_dtype"), "defaulted", text)
    step.reader.drop_all(_SAVED)
    return _read(context, step)


def read_loftq(context: Context, step: Step) -> dict[str, Any]:
    """Return the fields of `qlora` that starts as LoftQ does: nf4, with plain scales."""
    step.fields["init"] = "loftq"
    _field(step, ("loftq_iter",), "loftq_iterations", None)
    return read_qlora(context, step)


def read_lora(context: Context, step: Step) -> dict[str, Any]:
    """Return the fields of `lora`; the check of the recipe looks at their types."""
    step.reader.drop_all(_FOUR_BIT)
    return _read(context, step)


def _read(context: Context, step: Step) -> dict[str, Any]:
    for names, ours, default in _FIELDS:
        _field(step, names, ours, default)
    if "dtype" not in step.fields:
        text = "left out: `auto`, by device (Olive: bfloat16)"
        step.reader.ledger.note(step.path("torch_dtype"), "defaulted", text)
    else:
        step.fields["dtype"] = each(step.fields["dtype"], _dtype)
    if "modules" not in step.fields:
        text = "left out: every linear layer but the head (Olive: those that peft knows for the architecture)"
        step.reader.ledger.note(step.path("target_modules"), "defaulted", text)
    training = step.take("training", "training_args")
    if training is not None:
        step.fields["training"] = _plain(training) if isinstance(training, Mapping) else training
    step.data("data", "train_data_config")
    step.data("eval_data", "eval_data_config")
    _holdout(context, step)
    context.trusts(step.reader)
    step.reader.drop_all(UNUSED)
    return step.fields


def _field(step: Step, names: tuple[str, ...], ours: str, default: Any) -> None:
    if ours in step.fields:  # a method with a name of its own for it has read it
        return
    is_list = ours in _LISTS
    value = step.take(ours, *names, own=_RANKS if ours == "rank" else (), is_list=is_list)
    if value is None and default is not None:
        step.default(names[0], ours, default)
    elif value is not None:
        step.fields[ours] = [value] if is_list and isinstance(value, str) else value


def _plain(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the trainer, numbers and flags that are written as text as such."""
    return {name: _argument(name, value) for name, value in training.items()}


def _argument(name: str, value: Any) -> Any:
    kind = "flag" if name in FLAGS else HONOURED.get(RENAMED.get(name, name))
    plain = {"whole": whole_number, "number": unquoted, "flag": flag_of}.get(kind or "")
    read = plain(value) if plain is not None and isinstance(value, str) else None
    return value if read is None else read


def _dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _compute(step: Step, value: Any) -> Any:
    """Return a type that our 4-bit layers multiply in, for one that Olive's do."""
    value = _dtype(value)
    if value != "float16":
        return value
    text = "`auto`: 4-bit layers multiply in float32 or bfloat16 here"
    step.reader.ledger.note(step.path("compute_dtype"), "replaced", text)
    return "auto"


def _holdout(context: Context, step: Step) -> None:
    """Take `eval_dataset_size`: a share is kept from the training data, a number of rows cannot be."""
    reader = step.reader
    found = reader.given("eval_dataset_size")
    if found is None:
        return
    data = step.fields.get("data")
    share = number_of(found.value)
    if "eval_data" in step.fields:
        reader.ledger.note(found.path, "ignored", "`eval_data_config` says what to evaluate on")
    elif share is None:
        reader.wrong_type(found, "a share of the rows, such as 0.1")
    elif 0 < share < 1 and isinstance(data, str):
        _keep(context, reader, found, data, share)
    elif share == 0:
        reader.ledger.mapped(found.path, "no rows are kept from training")
    elif share >= 1:
        text = f"a number of rows cannot be kept from training: give a share, `--set data.{data}.holdout=0.1`"
        reader.ledger.note(found.path, "ignored", text)
    else:
        reader.ledger.problem(
            found.path, f"`eval_dataset_size` is {share:g}; it must be a share of the rows", "`0.1`"
        )


def _keep(context: Context, reader: Reader, found: Found, data: str, share: float) -> None:
    before: tuple[float, Path_] | None = context.holdouts.get(data)
    if before is not None and before[0] != share:
        reader.ledger.note(found.path, "ignored", f"`{data}` already keeps {before[0]:g} of its rows")
        return
    context.holdouts[data] = (share, found.path)
    reader.ledger.mapped(found.path, f"data.{data}.holdout")
