"""``transformers.Trainer``, with our loss, our order of rows and checkpoints that resume to the same bytes.

The classes are made inside functions: their bases take seconds to import.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Iterator
from typing import Any

from picual.errors import StepFailed
from picual.passes.base import PassContext
from picual.passes.finetune.batches import NOWHERE
from picual.passes.finetune.watch import Watch
from picual.passes.finetune.work import Work


def make_trainer(work: Work) -> Any:
    """Return a ``transformers.Trainer`` for ``work``."""
    from transformers import PrinterCallback, TrainerCallback

    watch = type("Watch", (Watch, TrainerCallback), {})
    trainer = _trainer_class()(
        model=work.model,
        args=work.arguments,
        train_dataset=work.train,
        eval_dataset=work.evaluation or None,
        data_collator=work.trained,
        callbacks=[watch(work)],
    )
    trainer.work = work
    trainer.remove_callback(PrinterCallback)  # it prints every loss
    return trainer


@contextlib.contextmanager
def _without_datasets() -> Iterator[None]:
    """Keep ``transformers`` from importing `datasets` with its trainer, where nothing has yet.

    It would only ask whether our rows are of a class of it; with pandas and pyarrow that takes 47 MB.
    """
    utils: Any = importlib.import_module("transformers.utils")
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
            with self.accelerator.autocast():
                mean = _mean_loss(self.work, self.state, self.args.device)
            metrics = {f"{metric_key_prefix}_loss": mean}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    return LabelTrainer


def _mean_loss(work: Work, state: Any, device: Any) -> float:
    """Return the mean loss over every label of the evaluation's rows."""
    import torch

    from picual.numerics.label_loss import count_labels

    work.model.eval()
    # Like lengths together, so that little is padded; the sum does not depend on the order.
    parts = work.evaluated(sorted(work.evaluation, key=lambda row: len(row.input_ids)))["parts"]
    total, count = 0.0, 0
    with torch.no_grad():
        for number, part in enumerate(parts, 1):
            batch = {name: tensor.to(device) for name, tensor in part.items()}
            total += float(work.loss(batch, 1.0))
            count += count_labels(batch["labels"])
            note = f"evaluating, batch {number} of {len(parts)}"
            work.context.progress(state.global_step, max(state.max_steps, 1), note)
    return total / count


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
