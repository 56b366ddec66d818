"""``transformers.Trainer``, with our loss, our order of rows and checkpoints that resume to the same bytes.

The classes are made inside functions: their bases take seconds to import.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.data.sequences import Sequence as TokenSequence
from picual.errors import StepFailed
from picual.passes.base import PassContext
from picual.passes.finetune.batches import NOWHERE, Order
from picual.passes.finetune.checkpoints import Tally, seal
from picual.passes.finetune.early_stopping import EarlyStopping
from picual.passes.finetune.loss import Loss
from picual.passes.finetune.packs import Packing

SAVE_EVERY = 30.0  # seconds that a kill may cost; a save of 135 million weights' adapter takes 0.2


@dataclass
class Work:
    """One training: its parts, and what it has done so far."""

    model: Any
    arguments: Any  # transformers.TrainingArguments
    train: Sequence[TokenSequence]
    evaluation: Sequence[TokenSequence]
    trained: Packing  # of the rows of a step
    evaluated: Packing
    order: Order
    loss: Loss
    context: PassContext
    tally: Tally = field(default_factory=Tally)
    stopping: EarlyStopping | None = None


def make_trainer(work: Work) -> Any:
    """Return a ``transformers.Trainer`` for ``work``."""
    from transformers import PrinterCallback

    trainer = _trainer_class()(
        model=work.model,
        args=work.arguments,
        train_dataset=work.train,
        eval_dataset=work.evaluation or None,
        data_collator=work.trained,
        callbacks=[_watch_class()(work)],
    )
    trainer.work = work
    trainer.remove_callback(PrinterCallback)  # it prints every loss
    return trainer


@contextlib.contextmanager
def _without_datasets() -> Iterator[None]:
    """Keep ``transformers`` from importing `datasets` with its trainer, where nothing has yet.

    It would only ask whether our rows are of a class of it; with pandas and pyarrow that takes 47 MB.
    """
    from transformers import utils as of_transformers

    utils: Any = of_transformers
    if "datasets" in sys.modules or "transformers.trainer" in sys.modules:
        yield
        return
    before = utils.is_datasets_available
    utils.is_datasets_available = lambda: False
    try:
        yield
    finally:
        utils.is_datasets_available = before


def _trainer_class() -> type[Any]:
    import torch

    with _without_datasets():
        from transformers import Trainer

    from picual.numerics.label_loss import count_labels

    class LabelTrainer(Trainer):
        """Divides the loss by the labels of the whole step, and evaluates over every label alike."""

        work: Work
        loss_is_scaled_for_ga = True

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return self.work.order

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            steps, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            return steps, sum(count_labels(part["labels"]) for step in steps for part in step["parts"])

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            found = [self._part(model, part, num_items_in_batch) for part in inputs["parts"]]
            return torch.stack(found).sum()

        def _part(self, model: Any, part: Any, labels: Any) -> torch.Tensor:
            """Go forward and back through one part of a step."""
            tokens = int(part["tokens"])
            found: torch.Tensor = super().training_step(model, part, labels)
            value = float(found)
            if not math.isfinite(value):
                raise _not_finite(value, self.state.global_step + 1, part["rows"].tolist(), self.work.context)
            self.work.tally.loss += value
            self.work.tally.tokens += tokens
            return found

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            with self.accelerator.autocast():
                return self.work.loss(inputs, num_items_in_batch)

        def evaluate(
            self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
        ) -> dict[str, float]:
            """Return the mean loss over all labels; no random number is drawn for it."""
            self.work.model.eval()
            total, count = 0.0, 0
            with torch.no_grad(), self.accelerator.autocast():
                batches = self._evaluation_parts()
                for number, batch in enumerate(batches, 1):
                    labels = count_labels(batch["labels"])
                    total += float(self.work.loss(batch, 1.0))
                    count += labels
                    note = f"evaluating, batch {number} of {len(batches)}"
                    self.work.context.progress(self.state.global_step, max(self.state.max_steps, 1), note)
            metrics = {f"{metric_key_prefix}_loss": total / count}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _evaluation_parts(self) -> list[dict[str, Any]]:
            # Like lengths together, so that little is padded; the sum does not depend on the order.
            rows = sorted(self.work.evaluation, key=lambda row: len(row.input_ids))
            parts = self.work.evaluated(rows)["parts"]
            return [{name: tensor.to(self.args.device) for name, tensor in part.items()} for part in parts]

    return LabelTrainer


def _not_finite(value: float, step: int, rows: list[int], context: PassContext) -> StepFailed:
    known = sorted({row for row in rows if row != NOWHERE})
    which = (
        f", on {'row' if len(known) == 1 else 'rows'} {', '.join(map(str, known))} of the data" if known else ""
    )
    return StepFailed(
        f"the loss is {value} at step {step}{which}: the training has come apart",
        where=str(context.scratch),
        hint="training: {learning_rate: 2e-5, max_grad_norm: 0.3}, or `dtype: float32`",
    )


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


def _watch_class() -> type[Any]:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Tells how far the training is, and when to save."""

        def __init__(self, work: Work) -> None:
            self._work = work
            self._started = self._saved = time.monotonic()
            self._logged = Tally()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._saved = time.monotonic()
            self._logged = Tally(**vars(self._work.tally))
            self._work.context.progress(state.global_step, state.max_steps, "training")

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._started = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
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
            stopping = self._work.stopping
            if stopping is not None and stopping.is_reached(state.log_history):
                control.should_training_stop = True
                control.should_save = True
            return control

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if args.eval_strategy == "epoch":
                control.should_save = True
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            logs = logs or {}
            tell, tally = self._work.context.event, self._work.tally
            if "loss" in logs:
                since = Tally(
                    tokens=tally.tokens - self._logged.tokens, seconds=tally.seconds - self._logged.seconds
                )
                self._logged = Tally(**vars(tally))
                tell(
                    "loss", step=state.global_step, loss=logs["loss"], learning_rate=logs.get("learning_rate"),
                    tokens_per_s=round(since.tokens_per_s, 1),
                )  # fmt: skip
            elif "eval_loss" in logs:
                tell("eval_loss", step=state.global_step, eval_loss=logs["eval_loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if error := _spoilt(self._work.model, state.global_step, self._work.context):
                raise error
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._work.tally)
            self._saved = time.monotonic()

    return Watch


@contextlib.contextmanager
def same_every_time(seed: int, threads: int) -> Iterator[None]:
    """Pin what the result depends on: seeds, threads, kernels; give torch back as it was."""
    import torch
    from transformers import set_seed

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)  # an operation without such a kernel still runs
    settings.fill_uninitialized_memory = False  # nothing here reads what nothing has written
    set_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warned)
        settings.fill_uninitialized_memory = filled
