"""Train an adapter or every weight: build the parts, go on from a checkpoint, evaluate, say what came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import hardware
from picual.data.base import DataConfig
from picual.errors import BadValue
from picual.passes.base import PassContext
from picual.passes.finetune import checkpoints
from picual.passes.finetune.adapter import AdapterForm, add_adapter, load_weights, with_every_weight
from picual.passes.finetune.batches import Order
from picual.passes.finetune.disk import disk_errors
from picual.passes.finetune.early_stopping import EarlyStopping, taken
from picual.passes.finetune.examples import Examples
from picual.passes.finetune.fast_layers import quicken
from picual.passes.finetune.loss import Loss
from picual.passes.finetune.packs import Packing
from picual.passes.finetune.precision import Dtype, weights_dtype
from picual.passes.finetune.trainer import make_trainer, same_every_time
from picual.passes.finetune.training_arguments import Here, settle
from picual.passes.finetune.work import Work


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, on what, and how."""

    network: Callable[[str], Any]  # the base, its floats of the dtype with this name
    form: AdapterForm | None  # None: no adapter, every weight is trained
    examples: Examples
    tokenizer: Any
    arguments: Mapping[str, Any]  # of ``TrainingArguments``, under their present names
    data: DataConfig  # of the examples to train on
    dtype: Dtype
    begin: Callable[[Any], None] = lambda _adapted: None  # changes a fresh adapter before the training


def train(plan: Training, context: PassContext) -> tuple[Any, dict[str, Any]]:
    """Return the network with its trained adapter, and the metrics of the training.

    Raises:
        BadValue: ``TrainingArguments`` refuses an argument.
        StepFailed: The loss is not finite.
    """
    work, metrics = _trained(plan, context)
    return work.model, metrics


def train_in_full(plan: Training, context: PassContext) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint with the trained weights, and the metrics; errors as of ``train``."""
    work, metrics = _trained(plan, context)
    newest = checkpoints.newest(context.scratch)
    assert newest is not None, "the last step of a training is always kept"
    return _kept(newest, work), metrics


def _trained(plan: Training, context: PassContext) -> tuple[Work, dict[str, Any]]:
    seed = int(plan.arguments.get("seed", context.seed))
    with same_every_time(seed, context.threads):
        arguments, stopping = _arguments(plan, seed, context)
        work = _work(plan, arguments, seed, context)
        work.stopping = stopping
        trainer = make_trainer(work)
        with disk_errors(context.scratch):
            _run(trainer, work, context)
        return work, _metrics(trainer, work)


def _arguments(plan: Training, seed: int, context: PassContext) -> tuple[Any, EarlyStopping | None]:
    import torch
    from transformers import TrainingArguments

    here = Here(
        sequences=len(plan.examples.train), evaluates=bool(plan.examples.evaluation),
        gpu=torch.cuda.is_available(), seed=seed, scratch=context.scratch,
    )  # fmt: skip
    settled = settle(plan.arguments, here)
    for note in settled.notes:
        context.noted(note)
    values = dict(settled.values)
    stopping = taken(values)
    try:
        arguments = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        lines = str(error).strip().splitlines()
        raise BadValue(
            f"transformers refuses the training arguments: {lines[0] if lines else type(error).__name__}",
            where="training",
            hint="picual passes show lora",
        ) from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # its parallel mode would copy the network to every GPU
    return arguments, stopping


def _work(plan: Training, arguments: Any, seed: int, context: PassContext) -> Work:
    dtype, note = weights_dtype(plan.dtype, hardware.machine(), gpu=not arguments.use_cpu)
    if note:
        context.noted(note)
    network = plan.network(dtype)
    network.config.use_cache = False
    adapted = with_every_weight(network) if plan.form is None else add_adapter(network, plan.form)
    plan.begin(adapted)
    adapted.to(arguments.device)
    quicken(adapted)
    loss = Loss(adapted, smoothing=arguments.label_smoothing_factor, compiled=arguments.torch_compile)
    if not loss.choose(plan.examples.train[0].input_ids):
        context.noted("the loss is the network's own: its head alone does not give its logits")
    arguments.label_smoothing_factor = 0.0  # ours has it already
    train = plan.examples.train
    order = Order(
        [len(row.input_ids) for row in train],
        batch=arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps,
        seed=arguments.data_seed if arguments.data_seed is not None else seed,
        arrangement=arguments.train_sampling_strategy,
        whole=arguments.per_device_train_batch_size if arguments.dataloader_drop_last else 1,
    )
    whole = _one_batch_a_step(arguments)
    packed = not arguments.torch_compile and loss.allow_packs(train[0].input_ids)
    trained = _packing(plan, whole, packed=packed)
    return Work(
        model=adapted, arguments=arguments, train=train, evaluation=plan.examples.evaluation, trained=trained,
        evaluated=dataclasses.replace(trained, batch=arguments.per_device_eval_batch_size), order=order, loss=loss,
        context=context,
    )  # fmt: skip


def _one_batch_a_step(arguments: Any) -> int:
    """Have the loader give all rows of an optimizer step at once, and return how many rows a batch had.

    They are cut into parts by ``Packing``; the gradient is the same, since the loss is divided by the labels of
    the whole step.
    """
    batch = int(arguments.per_device_train_batch_size)
    arguments.per_device_train_batch_size = batch * int(arguments.gradient_accumulation_steps)
    arguments.gradient_accumulation_steps = 1
    arguments.dataloader_drop_last = False  # the order leaves out what does not fill a batch
    return batch


def _packing(plan: Training, batch: int, *, packed: bool) -> Packing:
    pad_id = plan.tokenizer.pad_token_id
    return Packing(
        batch=batch, pad_id=int(plan.tokenizer.eos_token_id or 0) if pad_id is None else int(pad_id),
        pad_to=plan.data.max_length if plan.data.pad else None, attention_mask=plan.data.attention_mask,
        packed=packed,
    )  # fmt: skip


def _run(trainer: Any, work: Work, context: PassContext) -> None:
    """Train to the end, from the newest whole checkpoint; one of the last step needs no training any more."""
    from transformers import TrainerState

    newest = checkpoints.newest(context.scratch)
    if newest is None:
        trainer.train()
        return
    work.tally = checkpoints.tally_of(newest)
    state = checkpoints.state_of(newest)
    context.event("resumed", step=checkpoints.step_of(newest), steps=state["max_steps"])
    is_stopped = work.stopping is not None and work.stopping.is_reached(state["log_history"])
    if state["global_step"] < state["max_steps"] and not is_stopped:
        trainer.train(resume_from_checkpoint=str(newest))
        return
    load_weights(work.model, _kept(newest, work))
    trainer.state = TrainerState.load_from_json(str(newest / checkpoints.STATE))


def _kept(newest: Path, work: Work) -> Path:
    """Return the checkpoint whose weights are the result: the newest, or the best where that is asked for."""
    best = checkpoints.state_of(newest).get("best_global_step")
    return newest.with_name(f"checkpoint-{best}") if work.arguments.load_best_model_at_end and best else newest


def _metrics(trainer: Any, work: Work) -> dict[str, Any]:
    """Return losses and speed; without an evaluation of the final weights so far, evaluate once."""
    tally, state = work.tally, trainer.state
    metrics = {
        "train_loss": tally.loss / max(tally.steps, 1),
        "train_tokens_per_s": round(tally.tokens_per_s, 1),
        "steps": state.global_step,
    }
    if state.global_step < state.max_steps and work.stopping is not None:
        work.context.noted(
            f"stopped early, after step {state.global_step} of {state.max_steps}: "
            f"{work.stopping.patience} evaluations in a row were no better"
        )
    if not work.evaluation:
        return metrics
    best = state.best_global_step if work.arguments.load_best_model_at_end else None
    step = state.global_step if best is None else best
    found = [entry["eval_loss"] for entry in state.log_history if entry["step"] == step and "eval_loss" in entry]
    metrics["eval_loss"] = found[-1] if found else trainer.evaluate()["eval_loss"]
    return metrics
