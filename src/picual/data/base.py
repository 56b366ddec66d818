"""What a data set is: where rows come from, how a row becomes text, how texts become training sequences."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from picual.errors import BadValue

Strategy = Literal["join", "join-random", "join-sliding-window", "line-by-line", "line-by-line-random"]


class BadTemplate(BadValue, ValueError):
    """A template with a brace that does not fit."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One entry under ``data:`` in a recipe. A plain value; reading it happens in ``picual.data``.

    Exactly one of ``files`` and ``name`` says where rows come from. Text comes from ``template`` or
    ``text``; or from ``prompt`` + ``response``, whose prompt is masked in the labels; or from ``chat``,
    a column of messages put through the model's own chat template.
    """

    files: tuple[str, ...] = field(default=(), metadata={"help": "JSON, JSON lines or text files, absolute."})
    name: str | None = field(default=None, metadata={"help": "Data set on the Hugging Face hub."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a hub data set."})
    split: str = field(default="train", metadata={"help": "Split of a hub data set."})
    template: str | None = field(default=None, metadata={"help": "One row as text: `{column}` is replaced."})
    text: str | None = field(default=None, metadata={"help": "Column that holds the whole text."})
    prompt: str | None = field(default=None, metadata={"help": "Template of the part the model is given."})
    response: str | None = field(default=None, metadata={"help": "Template of the part the model must write."})
    mask_prompt: bool = field(default=True, metadata={"help": "Leave the prompt out of the loss."})
    chat: str | None = field(default=None, metadata={"help": "Column with messages (role, content)."})
    strategy: Strategy = field(default="line-by-line", metadata={"help": "How texts become sequences."})
    max_length: int = field(default=1024, metadata={"help": "Longest sequence.", "unit": "token"})
    prompt_max_length: int | None = field(
        default=None,
        metadata={"help": "Longest prompt of a pair; the response keeps the rest.", "unit": "token"},
    )
    stride: int | None = field(default=None, metadata={"help": "Step of the sliding window.", "unit": "token"})
    joiner: str | None = field(
        default=None, metadata={"help": "Text between joined rows; left out: the EOS token."}
    )
    pad: bool = field(default=False, metadata={"help": "Pad every sequence to max_length."})
    attention_mask: bool = field(default=True, metadata={"help": "Hand the attention mask to the model."})
    add_special_tokens: bool = field(default=False, metadata={"help": "Put BOS and EOS around every text."})
    drop_short: bool = field(default=False, metadata={"help": "Leave out sequences shorter than max_length."})
    holdout: float = field(default=0.0, metadata={"help": "Share of rows kept from training, by row, seeded."})
    max_samples: int | None = field(default=None, metadata={"help": "Use at most this many rows."})
    seed: int = field(default=42, metadata={"help": "Seed of the split and of random strategies."})

    def columns(self) -> tuple[str, ...]:
        """Return the columns that the templates name, in order, without repeats."""
        named: list[str] = []
        for template in (self.template, self.prompt, self.response):
            if template is not None:
                named += template_columns(template)
        named += [column for column in (self.text, self.chat) if column]
        return tuple(dict.fromkeys(named))

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form, defaults included."""
        return {**asdict(self), "files": list(self.files)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> DataConfig:
        """Rebuild the value from its JSON form."""
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {key: value for key, value in wire.items() if key in known}
        values["files"] = tuple(values.get("files", ()))
        return cls(**values)

    def remote(self) -> tuple[str, ...]:
        """Return the files that are addresses: what a run fetches before it reads any row."""
        return tuple(file for file in self.files if "://" in file or file.startswith("azureml:"))

    def paths(self) -> tuple[Path, ...]:
        """Return the files as paths."""
        return tuple(Path(file) for file in self.files)


def template_columns(template: str) -> list[str]:
    """Return the names between braces; a name may hold anything but braces (``{Best Answer}``, ``{a:b.c}``).

    Raises:
        BadTemplate: A brace is not closed, or closes nothing.
    """
    return [text for text, is_column in template_parts(template) if is_column]


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Replace every ``{column}`` by the row's value, as text.

    Raises:
        BadTemplate: A brace is not closed, or closes nothing.
        KeyError: The row lacks a column.
    """
    return "".join(str(row[text]) if is_column else text for text, is_column in template_parts(template))


@functools.lru_cache(maxsize=64)
def template_parts(template: str) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a template in order: (literal text, False) and (name of a column, True).

    ``{{`` and ``}}`` stand for a brace itself. Unlike in Python's own formats, no other character of a name
    means anything.

    Raises:
        BadTemplate: A brace is not closed, or closes nothing.
    """
    parts: list[tuple[str, bool]] = []
    end = 0
    while end < len(template):
        match = _PART.match(template, end)
        if match is None:
            raise _misfit(template, end)
        end = match.end()
        is_column = match["column"] is not None
        parts.append((match["column"] if is_column else _ESCAPES.get(match[0], match[0]), is_column))
    return tuple(parts)


_PART = re.compile(r"\{\{|\}\}|\{(?P<column>[^{}]+)\}|[^{}]+")
_ESCAPES = {"{{": "{", "}}": "}"}


def _misfit(template: str, at: int) -> BadTemplate:
    if template.startswith("{}", at):
        what = "there is no column name between the braces"
    else:
        what = "no `}` closes the brace" if template[at] == "{" else "no `{` opens the brace that ends"
    return BadTemplate(f"{what} at character {at + 1} of `{template}`; a brace itself is `{{{{` or `}}}}`")
