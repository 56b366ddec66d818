"""Train an adapter: build the parts, go on from a checkpoint if there is one, evaluate, say what came out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual import hardware
from picual.data.base import DataConfig
from picual.errors import BadValue
from picual.models import HfCheckpoint, QuantizedHfModel
from picual.models.hf_loading import load_base
from picual.passes.base import PassContext
from picual.passes.finetune import checkpoints
from picual.passes.finetune.adapter import AdapterForm, add_adapter, load_weights
from picual.passes.finetune.batches import Order, collate
from picual.passes.finetune.examples import Examples
from picual.passes.finetune.loss import Loss
from picual.passes.finetune.precision import Dtype, on_the_grid, weights_dtype
from picual.passes.finetune.trainer import Work, make_trainer, same_every_time
from picual.passes.finetune.training_arguments import Here, settle


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, on what, and how."""

    model: HfCheckpoint
    form: AdapterForm
    examples: Examples
    tokenizer: Any
    arguments: Mapping[str, Any]  # of ``TrainingArguments``, under their present names
    data: DataConfig  # of the examples to train on
    dtype: Dtype


def train(plan: Training, context: PassContext) -> tuple[Any, dict[str, Any]]:
    """Return the network with its trained adapter, and the metrics of the training.

    Raises:
        BadValue: ``TrainingArguments`` refuses an argument.
        StepFailed: The loss is not finite.
    """
    seed = int(plan.arguments.get("seed", context.seed))
    with same_every_time(seed, context.threads):
        arguments = _arguments(plan, seed, context)
        work = _work(plan, arguments, seed, context)
        trainer = make_trainer(work)
        _run(trainer, work, context)
        metrics = _metrics(trainer, work)
    return work.model, metrics


def _arguments(plan: Training, seed: int, context: PassContext) -> Any:
    import torch
    from transformers import TrainingArguments

    here = Here(
        sequences=len(plan.examples.train), evaluates=bool(plan.examples.evaluation),
        gpu=torch.cuda.is_available(), seed=seed, scratch=context.scratch,
    )  # fmt: skip
    settled = settle(plan.arguments, here)
    for note in settled.notes:
        context.noted(note)
    try:
        arguments = TrainingArguments(**settled.values)
    except (ValueError, TypeError, ImportError) as error:
        lines = str(error).strip().splitlines()
        raise BadValue(
            f"transformers refuses the training arguments: {lines[0] if lines else type(error).__name__}",
            where="training",
            hint="picual passes show lora",
        ) from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # its parallel mode would copy the network to every GPU
    return arguments


def _work(plan: Training, arguments: Any, seed: int, context: PassContext) -> Work:
    import torch

    asked = on_the_grid(plan.dtype) if isinstance(plan.model, QuantizedHfModel) else plan.dtype
    dtype, note = weights_dtype(asked, hardware.machine(), gpu=not arguments.use_cpu)
    if note:
        context.noted(note)
    network = load_base(plan.model, getattr(torch, dtype))
    network.config.use_cache = False
    adapted = add_adapter(network, plan.form)
    adapted.to(arguments.device)
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
    )
    pad_id = plan.tokenizer.pad_token_id
    batches = functools.partial(
        collate, pad_id=int(plan.tokenizer.eos_token_id or 0) if pad_id is None else int(pad_id),
        pad_to=plan.data.max_length if plan.data.pad else None, attention_mask=plan.data.attention_mask,
    )  # fmt: skip
    return Work(
        model=adapted, arguments=arguments, train=train, evaluation=plan.examples.evaluation, collate=batches,
        order=order, loss=loss, context=context,
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
    if state["global_step"] < state["max_steps"]:
        trainer.train(resume_from_checkpoint=str(newest))
        return
    best = state.get("best_global_step") if trainer.args.load_best_model_at_end else None
    load_weights(work.model, newest if best is None else newest.with_name(f"checkpoint-{best}"))
    trainer.state = TrainerState.load_from_json(str(newest / checkpoints.STATE))


def _metrics(trainer: Any, work: Work) -> dict[str, Any]:
    """Return losses and speed; without an evaluation of the final weights so far, evaluate once."""
    tally, state = work.tally, trainer.state
    metrics = {
        "train_loss": tally.loss / max(tally.steps, 1),
        "train_tokens_per_s": round(tally.tokens_per_s, 1),
        "steps": state.global_step,
    }
    if not work.evaluation:
        return metrics
    best = state.best_global_step if work.arguments.load_best_model_at_end else None
    step = state.global_step if best is None else best
    found = [entry["eval_loss"] for entry in state.log_history if entry["step"] == step and "eval_loss" in entry]
    metrics["eval_loss"] = found[-1] if found else trainer.evaluate()["eval_loss"]
    return metrics
