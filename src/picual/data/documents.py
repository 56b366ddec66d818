"""Rows to token ids, and which of them the model has to learn.

A document is one row: a text, a prompt and its response, or a chat. Labels are the ids themselves, or ``IGNORED``
where the loss does not look.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picual.data.base import DataConfig
from picual.data.text import filled, row_text, value_of
from picual.errors import BadValue

IGNORED = -100  # label of a position that is not learnt, as torch's cross entropy has it


@dataclass(frozen=True)
class Document:
    """Token ids of one row and their labels, of the same length.

    Attributes:
        input_ids: Token ids.
        labels: The same ids, or ``IGNORED``.
        cut: Tokens left out because the row is longer than allowed.
    """

    input_ids: list[int]
    labels: list[int]
    cut: int = 0


def documents(rows: Iterable[Mapping[str, Any]], config: DataConfig, tokenizer: Any) -> list[Document]:
    """Return every row as token ids.

    Args:
        rows: Of the data set.
        config: Of the data set.
        tokenizer: Of the model, from ``transformers``.

    Raises:
        BadValue: A row lacks a column, or the model has no chat template.
    """
    numbered = enumerate(rows, 1)
    if config.chat is not None:
        return [_chat(row, config, config.chat, tokenizer, number) for number, row in numbered]
    if config.template is None and config.prompt is not None and config.response is not None:
        return [_pair(row, config, tokenizer, number) for number, row in numbered]
    return [_text(row_text(row, config, number), config, tokenizer) for number, row in numbered]


def encode(text: str, tokenizer: Any, *, special: bool = False) -> list[int]:
    """Return the ids of a text; ``special`` adds what the tokenizer itself puts around one."""
    return [int(token) for token in tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]


def _text(text: str, config: DataConfig, tokenizer: Any) -> Document:
    """Return a text: as it is, or with the tokenizer's own beginning and an EOS."""
    ids = encode(text, tokenizer, special=config.add_special_tokens)
    if config.add_special_tokens:
        ids = ended(ids, tokenizer)
    return Document(ids, list(ids))


def ended(ids: list[int], tokenizer: Any) -> list[int]:
    """Return ids that end in EOS; a text that ends its turn with another special token has its end already."""
    if tokenizer.eos_token_id is None or (ids and ids[-1] in tokenizer.all_special_ids):
        return ids
    return [*ids, int(tokenizer.eos_token_id)]


def _pair(row: Mapping[str, Any], config: DataConfig, tokenizer: Any, number: int) -> Document:
    """Return prompt and response, each encoded alone: as the model meets the prompt when it is used."""
    assert config.prompt is not None
    assert config.response is not None
    prompt = encode(filled(config.prompt, row, number), tokenizer, special=config.add_special_tokens)
    if config.add_special_tokens and prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt.pop()  # some tokenizers end every text: this one goes on
    response = ended(encode(filled(config.response, row, number), tokenizer), tokenizer)
    # A long prompt leaves at least half of the room to the response, and gives way at its beginning.
    most = config.prompt_max_length or max(config.max_length - len(response), config.max_length // 2)
    most = min(most, config.max_length - 1)
    kept = prompt[max(len(prompt) - most, 0) :]
    answer = response[: config.max_length - len(kept)]
    labels = [IGNORED] * len(kept) if config.mask_prompt else list(kept)
    cut = len(prompt) - len(kept) + len(response) - len(answer)
    return Document([*kept, *answer], [*labels, *answer], cut)


def _chat(row: Mapping[str, Any], config: DataConfig, column: str, tokenizer: Any, number: int) -> Document:
    """Return a chat in the model's own template; what the assistant says is learnt."""
    if not tokenizer.chat_template:
        raise BadValue(
            "the model has no chat template, and the data is a chat",
            hint='give `prompt: "{question}"` and `response: "{answer}"`, or a `template`',
        )
    messages = _messages(value_of(row, column, number), column, number)
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in _spans(messages, tokenizer, number):
        part = encode(text, tokenizer)
        ids += part
        labels += part if learnt or not config.mask_prompt else [IGNORED] * len(part)
    return Document(ids, labels)


def _messages(value: Any, column: str, number: int) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Sequence) or not value or not all(_is_message(one) for one in value):
        raise BadValue(
            f"row {number} of the data has no messages in column `{column}`",
            hint='a chat is a list: [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    return [dict(message) for message in value]


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value


def _spans(messages: list[dict[str, Any]], tokenizer: Any, number: int) -> list[tuple[str, bool]]:
    """Return the text of a chat in parts, each learnt or not.

    A template may show an earlier turn differently from a last one (thinking left out), so a turn is learnt only
    where the text up to it is a beginning of the whole; the last turn of the assistant always is.
    """
    whole = _rendered(messages, tokenizer, number)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        return [(whole, False)]
    spans: list[tuple[str, bool]] = []
    done = 0
    for turn in turns:
        before = _rendered(messages[:turn], tokenizer, number, asks=True)
        after = _rendered(messages[: turn + 1], tokenizer, number)
        if turn == turns[-1] and not (whole.startswith(before) and whole.startswith(after)):
            before, after = _alike(whole, before), whole
        if whole.startswith(before) and whole.startswith(after) and done <= len(before) < len(after):
            spans += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
            done = len(after)
    spans.append((whole[done:], False))
    return [(text, learnt) for text, learnt in spans if text]


def _rendered(messages: list[dict[str, Any]], tokenizer: Any, number: int, *, asks: bool = False) -> str:
    from jinja2 import TemplateError

    if not messages:
        return ""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except TemplateError as error:
        raise BadValue(
            f"the model's chat template refuses row {number} of the data: {error}",
            hint="most templates want user and assistant in turn, the user first",
        ) from error


def _alike(left: str, right: str) -> str:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return left[:index]
    return left[: min(len(left), len(right))]
