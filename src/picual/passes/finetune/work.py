"""One training: what it is made of, and what it has done so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from picual.data.sequences import Sequence as TokenSequence
from picual.passes.base import PassContext
from picual.passes.finetune.batches import Order
from picual.passes.finetune.checkpoints import Tally
from picual.passes.finetune.early_stopping import EarlyStopping
from picual.passes.finetune.loss import Loss
from picual.passes.finetune.packs import Packing


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
