"""The sequences a training sees, and those it is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picual.data.base import DataConfig
from picual.data.files import rows
from picual.data.sequences import Sequence, Tokenized, sequences
from picual.data.split import holdout_rows, train_rows
from picual.passes.base import PassContext


@dataclass(frozen=True)
class Examples:
    """Sequences to train and to evaluate on, and from how many rows they come."""

    train: list[Sequence]
    evaluation: list[Sequence]
    train_rows: int
    eval_rows: int


def examples(data: str, eval_data: str | None, tokenizer: Any, context: PassContext) -> Examples:
    """Read, split and tokenize the data.

    Args:
        data: Name of the data set to train on.
        eval_data: Name of another to evaluate on; None, or the same name, for the holdout of ``data``.
        tokenizer: Of the model.
        context: Of the step; gets notes on what was cut or left out.

    Raises:
        BadValue: A file is not readable, a row lacks a column, or nothing is left to learn.
    """
    config = context.data[data]
    found = rows(config)
    kept, held = train_rows(found, config), holdout_rows(found, config)
    if eval_data is not None and eval_data != data:
        other = context.data[eval_data]
        held = rows(other)
        evaluation = _tokenized(eval_data, held, other, tokenizer, context)
    else:
        evaluation = _tokenized(f"{data}, holdout", held, config, tokenizer, context) if held else []
    return Examples(_tokenized(data, kept, config, tokenizer, context), evaluation, len(kept), len(held))


def _tokenized(
    name: str, found: list[Any], config: DataConfig, tokenizer: Any, context: PassContext
) -> list[Sequence]:
    made = sequences(found, config, tokenizer)
    for note in _notes(name, made, config):
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
