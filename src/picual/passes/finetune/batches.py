"""Training sequences to batches: in which order, and padded no further than needed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from picual.data.documents import IGNORED
from picual.data.sequences import Sequence as TokenSequence

Arrangement = Literal["random", "sequential", "group_by_length"]
NOWHERE = -1  # as the row of a sequence that was made of several
GROUP = 50  # batches among which rows of like length are brought together


class Order:
    """The indices of the sequences in each epoch: from the seed and the number of the epoch alone.

    A training that goes on in the middle of an epoch meets the order that it left, whatever was drawn since.

    Args:
        lengths: Tokens of each sequence.
        batch: Sequences of one optimizer step.
        seed: Of the order.
        arrangement: ``group_by_length`` brings rows of like length into one step, in random order of steps.
        whole: Rows come in so many; those beyond are left out of the epoch.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch: int, seed: int, arrangement: Arrangement, whole: int = 1
    ) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._arrangement = arrangement
        self._kept = len(lengths) // whole * whole
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; the loader does."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._kept

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._all(), self._kept)

    def _all(self) -> Iterator[int]:
        if self._arrangement == "sequential":
            return iter(range(len(self._lengths)))
        dice = random.Random(f"{self._seed} {self._epoch}")  # the same for a text in every version of Python
        mixed = dice.sample(range(len(self._lengths)), len(self._lengths))
        return iter(mixed if self._arrangement == "random" else self._grouped(mixed, dice))

    def _grouped(self, mixed: list[int], dice: random.Random) -> list[int]:
        """Sort within groups of batches, so that rows of one batch are alike and batches still come mixed."""
        size = self._batch * GROUP
        batches: list[list[int]] = []
        for start in range(0, len(mixed), size):
            group = sorted(mixed[start : start + size], key=lambda index: -self._lengths[index])
            batches += [group[at : at + self._batch] for at in range(0, len(group), self._batch)]
        # The longest first: too little memory shows at once. A short last batch stays last.
        longest = max(range(len(batches)), key=lambda index: self._lengths[batches[index][0]])
        last = [batches.pop()] if len(batches[-1]) < self._batch and longest != len(batches) - 1 else []
        first = [batches.pop(longest)] if longest < len(batches) else []
        dice.shuffle(batches)
        return [index for batch in (*first, *batches, *last) for index in batch]


def collate(
    sequences: Sequence[TokenSequence], *, pad_id: int, pad_to: int | None, attention_mask: bool
) -> dict[str, Any]:
    """Return a batch: ``input_ids`` and ``labels`` (B, T), its ``rows`` (B,), how many ``tokens`` are no padding.

    Args:
        sequences: B of them.
        pad_id: Token that fills the right side; it is in no label.
        pad_to: T at least; None for the longest of the batch.
        attention_mask: Hand one over where something is padded. Padding on the right is seen by no token
            before it, so without a mask the loss is the same.
    """
    import torch

    longest = max(pad_to or 0, *(len(one.input_ids) for one in sequences))
    gaps = [longest - len(one.input_ids) for one in sequences]
    rows = [one.input_ids + [pad_id] * gap for one, gap in zip(sequences, gaps, strict=True)]
    labels = [one.labels + [IGNORED] * gap for one, gap in zip(sequences, gaps, strict=True)]
    batch = {
        "input_ids": torch.tensor(rows, dtype=torch.long),
        "labels": torch.tensor(labels, dtype=torch.long),
        "tokens": torch.tensor(len(sequences) * longest - sum(gaps)),
        "rows": torch.tensor([NOWHERE if one.row is None else one.row for one in sequences]),
    }
    if attention_mask and any(gaps):
        mask = [[1] * (longest - gap) + [0] * gap for gap in gaps]
        batch["attention_mask"] = torch.tensor(mask, dtype=torch.long)
    return batch
