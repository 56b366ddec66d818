"""What a training tells while it runs, and when it saves: the callback of ``transformers.Trainer``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from picual.errors import StepFailed
from picual.passes.base import PassContext
from picual.passes.finetune.checkpoints import Tally, seal
from picual.passes.finetune.work import Work

SAVE_EVERY = 30.0  # seconds that a kill may cost; a save of 135 million weights' adapter takes 0.2


class Watch:
    """Tells how far the training is, and when to save; the trainer mixes it with ``TrainerCallback``."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._started = self._saved = time.monotonic()
        self._logged = Tally()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count, maybe where a checkpoint left off."""
        self._saved = time.monotonic()
        self._logged = Tally(**vars(self._work.tally))
        self._work.context.progress(state.global_step, state.max_steps, "training")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the time."""
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Tell the loss so far, and save at the end or when it is time."""
        tally = self._work.tally
        now = time.monotonic()
        tally.seconds += now - self._started
        tally.steps = state.global_step
        note = f"loss {tally.loss / tally.steps:.3f}, {tally.tokens_per_s:.0f} tokens/s"
        self._work.context.progress(state.global_step, state.max_steps, note)
        last = state.global_step >= state.max_steps
        if last or now - self._saved > SAVE_EVERY:
            control.should_save = True
        if args.eval_strategy == "epoch" and (last or float(state.epoch).is_integer()):
            # What the evaluation at the epoch's end changes (best so far, learning rate) belongs in it.
            control.should_save = False
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop where evaluations are no better any more."""
        stopping = self._work.stopping
        if stopping is not None and stopping.is_reached(state.log_history):
            control.should_training_stop = True
            control.should_save = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Save with the evaluation that ends an epoch."""
        if args.eval_strategy == "epoch":
            control.should_save = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Hand losses on as events."""
        logs = logs or {}
        tell, tally = self._work.context.event, self._work.tally
        if "loss" in logs:
            since = Tally(tokens=tally.tokens - self._logged.tokens, seconds=tally.seconds - self._logged.seconds)
            self._logged = Tally(**vars(tally))
            tell(
                "loss", step=state.global_step, loss=logs["loss"], learning_rate=logs.get("learning_rate"),
                tokens_per_s=round(since.tokens_per_s, 1),
            )  # fmt: skip
        elif "eval_loss" in logs:
            tell("eval_loss", step=state.global_step, eval_loss=logs["eval_loss"])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse weights that are not finite, and mark the checkpoint as whole."""
        if error := _spoilt(self._work.model, state.global_step, self._work.context):
            raise error
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._work.tally)
        self._saved = time.monotonic()


def _spoilt(model: Any, step: int, context: PassContext) -> StepFailed | None:
    """Return the error of weights that are not finite, before they are kept as a checkpoint to go on from."""
    odd = [n for n, weight in model.named_parameters() if weight.requires_grad and not weight.isfinite().all()]
    if not odd:
        return None
    return StepFailed(
        f"`{odd[0]}` is not finite after step {step}: the training has come apart",
        where=str(context.scratch),
        hint="training: {learning_rate: 2e-5, max_grad_norm: 0.3}, or `dtype: float32`",
    )
