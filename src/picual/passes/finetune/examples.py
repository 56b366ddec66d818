"""The sequences a training sees, and those it is evaluated on."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

from picual.data.base import DataConfig
from picual.data.files import Row, rows
from picual.data.sequences import Sequence, Tokenized, sequences
from picual.data.split import holdout_rows, train_rows
from picual.data.text import row_text
from picual.models import HfCheckpoint
from picual.passes.base import PassContext

SIZES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Examples:
    """Sequences to train and to evaluate on, and from how many rows they come.

    Attributes:
        train: Each knows its row, counted from 1 in the data as it is given.
        evaluation: Of the holdout, or of another data set.
        train_rows: Rows that the former are made of.
        eval_rows: Rows that the latter are made of.
        config: Of the data to train on, no longer than the model's context.
    """

    train: list[Sequence]
    evaluation: list[Sequence]
    train_rows: int
    eval_rows: int
    config: DataConfig


def examples(
    data: str, eval_data: str | None, tokenizer: Any, context: PassContext, longest: int | None = None
) -> Examples:
    """Read, split and tokenize the data.

    Args:
        data: Name of the data set to train on.
        eval_data: Name of another to evaluate on; None, or the same name, for the holdout of ``data``.
        tokenizer: Of the model.
        context: Of the step; gets notes on what was cut or left out.
        longest: Tokens that the model can read at once; None: it does not say.

    Raises:
        BadValue: A file is not readable, a row lacks a column, or nothing is left to learn.
    """
    config = context.data[data]
    found = rows(config)
    kept, held = train_rows(found, config), holdout_rows(found, config)
    other = config
    if eval_data is not None and eval_data != data:
        other = context.data[eval_data]
        held = rows(other)
    elif config.holdout and not held:
        context.noted(f"data `{data}`: one row cannot be split, so there is nothing to evaluate on")
    title = f"{data}, holdout" if other is config else str(eval_data)
    evaluation = _tokenized(title, held, other, tokenizer, context, longest) if held else []
    _tell_leaks(kept, config, held, other, context)
    numbers = train_rows(range(1, len(found) + 1), config)
    train = [
        one if one.row is None else replace(one, row=numbers[one.row])
        for one in _tokenized(data, kept, config, tokenizer, context, longest)
    ]
    return Examples(train, evaluation, len(kept), len(held), _fitted(config, longest))


def context_of(model: HfCheckpoint) -> int | None:
    """Return how many tokens a model can read at once; None where its config does not say."""
    config = model.config()
    config = config.get("text_config", config)
    return next((int(config[name]) for name in SIZES if config.get(name)), None)


def _fitted(config: DataConfig, longest: int | None) -> DataConfig:
    return config if longest is None or config.max_length <= longest else replace(config, max_length=longest)


def _tokenized(
    name: str, found: list[Row], config: DataConfig, tokenizer: Any, context: PassContext, longest: int | None
) -> list[Sequence]:
    fitted = _fitted(config, longest)
    made = sequences(found, fitted, tokenizer)
    if fitted is not config and (config.pad or made.truncation.longest > fitted.max_length):
        context.noted(
            f"data `{name}`: `max_length` {config.max_length} is more than the model can read at once, "
            f"which is {longest} tokens: it is {longest}"
        )
    for note in _notes(name, made, fitted):
        context.noted(note)
    return made.sequences


def _notes(name: str, made: Tokenized, config: DataConfig) -> list[str]:
    notes = []
    if made.truncation.count:
        notes.append(
            f"data `{name}`: {made.truncation.count} rows lost their end to `max_length` {config.max_length};"
            f" the longest has {made.truncation.longest} tokens"
        )
    if made.unlearnt:
        notes.append(f"data `{name}`: {made.unlearnt} sequences left out: no label of theirs counts")
    if made.short:
        notes.append(f"data `{name}`: {made.short} sequences left out by `drop_short`")
    return notes


def _tell_leaks(
    train: Many[Row], config: DataConfig, held: Many[Row], other: DataConfig, context: PassContext
) -> None:
    """Say how many rows to evaluate on are, word for word, trained on: what they measure is memory."""
    seen = {_text(row, config, number) for number, row in enumerate(train, 1)} if held else set()
    leaked = sum(_text(row, other, number) in seen for number, row in enumerate(held, 1))
    if leaked:
        context.metrics["leaked_rows"] = leaked
        context.noted(
            f"{leaked} of {len(held)} rows to evaluate on are also trained on, word for word: "
            "`eval_loss` is better than the model is"
        )


def _text(row: Row, config: DataConfig, number: int) -> str:
    if config.chat:
        return json.dumps(row.get(config.chat), sort_keys=True, default=str)
    return row_text(row, config, number).strip()
