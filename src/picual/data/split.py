"""Rows kept from training: chosen by row, so that no document lies on both sides; by seed, so always the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from picual.data.base import DataConfig

Row = TypeVar("Row")


def train_rows(rows: Sequence[Row], config: DataConfig) -> list[Row]:
    """Return the rows to train on, in their order: all of them without a holdout."""
    kept = _held_out(len(rows), config)
    return [row for index, row in enumerate(rows) if index not in kept]


def holdout_rows(rows: Sequence[Row], config: DataConfig) -> list[Row]:
    """Return the rows kept from training, in their order; none without a holdout."""
    kept = _held_out(len(rows), config)
    return [row for index, row in enumerate(rows) if index in kept]


def _held_out(count: int, config: DataConfig) -> frozenset[int]:
    """Return the indices kept from training: both sides get at least one row where there are two."""
    if not 0 < config.holdout < 1 or count < 2:
        return frozenset()
    share = min(max(round(count * config.holdout), 1), count - 1)
    return frozenset(random.Random(config.seed).sample(range(count), share))
