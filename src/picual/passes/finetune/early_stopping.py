"""Stopping a training whose evaluations no longer get better: decided from the losses told so far.

The names are those of transformers' EarlyStoppingCallback. That one counts in memory and forgets at a kill; the
losses are in every checkpoint, so a training that goes on stops where it would have stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = ("early_stopping_patience", "early_stopping_threshold")


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop.

    Attributes:
        patience: Evaluations in a row that are no better.
        threshold: By how much a loss has to fall to be better, nats a label.
        greater_is_better: Whether the loss has to rise.
    """

    patience: int
    threshold: float = 0.0
    greater_is_better: bool = False

    def is_reached(self, history: Iterable[Mapping[str, Any]]) -> bool:
        """Say whether the last evaluations of a trainer's history were no better.

        Args:
            history: ``log_history`` of the trainer's state.
        """
        return self.in_vain(history) >= self.patience

    def in_vain(self, history: Iterable[Mapping[str, Any]]) -> int:
        """Return how many evaluations there were since the last better one."""
        sign = -1.0 if self.greater_is_better else 1.0
        best, waited = float("inf"), 0
        for loss in (sign * entry["eval_loss"] for entry in history if "eval_loss" in entry):
            waited = 0 if best - loss > self.threshold else waited + 1
            best = min(best, loss)
        return waited


def taken(settled: dict[str, Any]) -> EarlyStopping | None:
    """Take what is said of stopping early out of the arguments; None where nothing is."""
    patience, threshold = (settled.pop(name, None) for name in NAMES)
    if patience is None:
        return None
    return EarlyStopping(int(patience), float(threshold or 0.0), bool(settled.get("greater_is_better")))
