"""What a model answered to each row, which class that is, and whether it is right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

AROUND = " \t\r\n.,;:!?\"'*`"
FILE = "predictions.jsonl"

Match = Literal["exact", "class"]


class Question(NamedTuple):
    """One row, asked."""

    prompt: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to one row."""

    prompt: str
    expected: str
    answer: str  # as the model wrote it
    taken: str  # the class it counts as, spelled as in the data; "" for none of them
    right: bool
    scores: Mapping[str, float] | None = None  # log-probability of each class, where classes were compared


def judged(
    questions: Sequence[Question], answers: Sequence[str], classes: Sequence[str], match: Match = "exact"
) -> list[Prediction]:
    """Return what the answers count as.

    Args:
        questions: With the answers they expect.
        answers: In the same order.
        classes: That an answer may name.
        match: ``exact``: the whole answer; ``class``: the first class in it.
    """
    spelled = {bare(name): name for name in reversed(classes)}
    found = []
    for question, answer in zip(questions, answers, strict=True):
        said = first_class(answer, classes) if match == "class" else answer
        right = same(said, question.expected)
        taken = question.expected if right else spelled.get(bare(said), "") if bare(said) else ""
        found.append(Prediction(**question._asdict(), answer=answer, taken=taken, right=right))
    return found


def same(answer: str, expected: str) -> bool:
    """Say whether an answer is the expected one."""
    if not bare(expected):  # the punctuation itself is the answer
        return answer.strip() == expected.strip()
    return bare(answer) == bare(expected)


def bare(answer: str) -> str:
    """Return an answer without what does not count: case, and blanks and punctuation around it."""
    return answer.strip(AROUND).casefold()


def first_class(answer: str, classes: Sequence[str]) -> str:
    """Return the class that an answer names first, as a word of its own, or ``""``."""
    # The longest first: of `sad` and `sad-ish`, both found at one place, the longer is meant.
    names = "|".join(re.escape(name.casefold()) for name in sorted(classes, key=len, reverse=True) if name)
    found = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer.casefold()) if names else None
    return found.group() if found else ""


def write(predictions: Sequence[Prediction], folder: Path | None) -> None:
    """Write one JSON line a row into ``folder``, where there is one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for one in predictions:
            line = {name: value for name, value in vars(one).items() if value is not None}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
