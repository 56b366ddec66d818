"""Documents to training sequences: each alone, or joined and cut.

* ``line-by-line``: a row is a sequence, cut at ``max_length``.
* ``line-by-line-random``: in random order, and of a longer row a random stretch.
* ``join``: rows one after the other, cut into pieces of ``max_length``.
* ``join-random``: as many pieces, from random places.
* ``join-sliding-window``: pieces that overlap; what an earlier one has learnt is only read again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picual.data.base import DataConfig
from picual.data.documents import IGNORED, Document, documents, encode
from picual.errors import BadValue


@dataclass(frozen=True)
class Sequence:
    """What the model reads at once, and what of it is learnt: -100 where the loss does not look.

    Attributes:
        input_ids: Token ids.
        labels: Of the same length.
        row: Place of the row that it was made of; None where rows were joined.
    """

    input_ids: list[int]
    labels: list[int]
    row: int | None = field(default=None, compare=False)

    @property
    def learnt(self) -> int:
        """Positions that count in the loss: the first token is predicted by nothing."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Truncation:
    """How many rows lost tokens to ``max_length``, and how long the longest row is."""

    count: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Tokenized:
    """The sequences of a data set, and what was left out on the way.

    Attributes:
        sequences: In the order of the strategy.
        truncation: Of rows that are sequences of their own.
        unlearnt: Sequences dropped because nothing in them is learnt.
        short: Sequences dropped because ``drop_short`` asks for it.
    """

    sequences: list[Sequence] = field(default_factory=list)
    truncation: Truncation = field(default_factory=Truncation)
    unlearnt: int = 0
    short: int = 0


def sequences(rows: Iterable[Mapping[str, Any]], config: DataConfig, tokenizer: Any) -> Tokenized:
    """Return the sequences of rows, by the strategy of their data set.

    Args:
        rows: Of the data set.
        config: Of the data set.
        tokenizer: Of the model, from ``transformers``.

    Raises:
        BadValue: No rows, a row lacks a column, or nothing is left to learn.
    """
    found = documents(rows, config, tokenizer)
    if not found:
        raise BadValue("the data has no rows", hint="look at `files`, `max_samples` and `holdout`")
    truncation = Truncation(longest=max(len(one.input_ids) + one.cut for one in found))
    if config.strategy.startswith("join"):
        made = _cut(_joined(found, config, tokenizer), config)
    else:
        cut = [one for one in found if one.cut or len(one.input_ids) > config.max_length]
        truncation = Truncation(len(cut), truncation.longest)
        made = _one_by_one(found, config)
    return _kept(made, config, truncation)


def _kept(made: list[Sequence], config: DataConfig, truncation: Truncation) -> Tokenized:
    """Leave out what is too short or teaches nothing; refuse to be left with nothing."""
    long_enough = [one for one in made if not config.drop_short or len(one.input_ids) >= config.max_length]
    kept = [one for one in long_enough if one.learnt]
    if not kept and not long_enough:
        raise BadValue(
            f"no sequence is {config.max_length} tokens long, and `drop_short` leaves out the others",
            hint=f"max_length: {max(len(one.input_ids) for one in made)}",
        )
    if not kept:
        raise BadValue(
            "there is nothing to learn in the data: every label is masked",
            hint="a longer `max_length`, a shorter `prompt_max_length`, or `mask_prompt: false`",
        )
    return Tokenized(kept, truncation, len(long_enough) - len(kept), len(made) - len(long_enough))


def _one_by_one(found: list[Document], config: DataConfig) -> list[Sequence]:
    if config.strategy == "line-by-line":
        return [replace(_stretch(one, 0, config.max_length), row=row) for row, one in enumerate(found)]
    dice = random.Random(config.seed)
    order = dice.sample(range(len(found)), len(found))
    made = []
    for index in order:
        room = max(len(found[index].input_ids) - config.max_length, 0)
        made.append(replace(_stretch(found[index], dice.randint(0, room), config.max_length), row=index))
    return made


def _joined(found: list[Document], config: DataConfig, tokenizer: Any) -> Document:
    """Return all documents as one, with the joiner between them: its text, or EOS where there is none."""
    between = _between(config, tokenizer)
    ids: list[int] = []
    labels: list[int] = []
    for one in found:
        # A document that ends in EOS already needs no second one.
        if ids and not (config.joiner is None and ids[-1:] == between):
            ids += between
            labels += between
        ids += one.input_ids
        labels += one.labels
    return Document(ids, labels)


def _between(config: DataConfig, tokenizer: Any) -> list[int]:
    if config.joiner is not None:
        return encode(config.joiner, tokenizer) if config.joiner else []
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def _cut(whole: Document, config: DataConfig) -> list[Sequence]:
    total, length = len(whole.input_ids), config.max_length
    if config.strategy == "join-sliding-window":
        return _windows(whole, config)
    if config.strategy == "join-random":
        dice = random.Random(config.seed)
        starts = [dice.randint(0, max(total - length, 0)) for _ in range(-(-total // length))]
    else:
        starts = list(range(0, total, length))
    return [_stretch(whole, start, length) for start in starts]


def _windows(whole: Document, config: DataConfig) -> list[Sequence]:
    """Return overlapping pieces; what a piece shares with the one before it is context, not learnt again."""
    length = config.max_length
    step = config.stride or max(length // 2, 1)
    if step > length:
        raise BadValue(
            f"`stride` is {step}, longer than `max_length` {length}: the tokens between would be left out",
            hint=f"stride: {max(length // 2, 1)}",
        )
    made = []
    seen = 0
    for start in range(0, max(len(whole.input_ids), 1), step):
        if start and seen >= len(whole.input_ids):
            break
        piece = _stretch(whole, start, length)
        known = seen - start
        made.append(Sequence(piece.input_ids, [IGNORED] * known + piece.labels[known:]))
        seen = start + len(piece.input_ids)
    return made


def _stretch(document: Document, start: int, length: int) -> Sequence:
    end = start + length
    return Sequence(document.input_ids[start:end], document.labels[start:end])
