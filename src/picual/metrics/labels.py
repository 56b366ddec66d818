"""Classes as labels: which there are, and which of them a model finds most likely after a prompt.

A label's score is the sum of the log-probabilities of its tokens. Prompt and label are encoded together, as the
model has seen them: what precedes the first token that any label changes is the prompt, so that "Tone: " and
"joy", which most tokenizers read as "Tone:" and " joy", are split there for every label alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from picual.errors import BadValue, nearest
from picual.metrics.predictions import Prediction, Question
from picual.models.answers import common_prefix, not_finite
from picual.models.likelihood import Row
from picual.models.session import Session


def classes_of(expected: Sequence[str], labels: Sequence[str] | None, *, data: str) -> list[str]:
    """Return the classes, in order: the labels as given, or what the rows expect, sorted.

    Args:
        expected: The answer of every row of the data, asked or not.
        labels: As the recipe gives them.
        data: Name of the data set.

    Raises:
        BadValue: A row expects none of the labels, or no row expects one of them.
    """
    found = sorted(set(expected))
    if labels is None:
        return found
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise BadValue("`labels` needs at least two different labels", hint=f"labels: [{', '.join(found[:8])}]")
    for number, answer in enumerate(expected, 1):
        if answer not in labels:
            raise BadValue(
                f"row {number} of `{data}` expects `{answer}`, which is not one of `labels`",
                hint=nearest(answer, labels) or f"add `{answer}` to `labels`",
            )
    for label in labels:
        if label not in found:
            raise BadValue(
                f"no row of `{data}` expects the label `{label}`",
                hint=nearest(label, found) or f"leave `{label}` out of `labels`",
            )
    return list(labels)


def overlap(labels: Sequence[str]) -> bool:
    """Say whether a label begins another one: without an end, the shorter would always be the likelier."""
    return any(a != b and b.startswith(a) for a in labels for b in labels)


def likeliest(
    session: Session, questions: Sequence[Question], labels: Sequence[str], *, before: Sequence[str], after: str,
    where: str,
) -> list[Prediction]:  # fmt: skip
    """Return the label that the model finds most likely after each prompt; of equal ones the first.

    Args:
        session: The model.
        questions: Prompts, and the labels they expect.
        labels: To choose from.
        before: Text of each question between its prompt and the label, such as a blank.
        after: Text that ends a label, or nothing.
        where: The model's path, for errors.

    Raises:
        StepFailed: The logits after a prompt are not finite; it says which.
    """
    rows: list[Row] = []
    for question, lead in zip(questions, before, strict=True):
        rows += split(session, question.prompt, [lead + label + after for label in labels])
    scores = [one.log_probability for one in session.likelihoods(rows)]
    found = []
    for number, question in enumerate(questions):
        by_label = dict(zip(labels, scores[number * len(labels) :], strict=False))
        if not all(map(math.isfinite, by_label.values())):
            raise not_finite(question.prompt, where)
        found.append(_best(question, by_label))
    return found


def split(session: Session, prompt: str, texts: Sequence[str]) -> list[Row]:
    """Return the tokens of the prompt that all texts leave as they are, and those of each text after them."""
    whole = [session.encode(prompt + text) for text in texts]
    alone = session.encode(prompt)
    kept = common_prefix([alone, *whole]) if alone else 0
    kept = min(kept, *(len(ids) - 1 for ids in whole))  # each text has at least one token of its own
    if kept < 1:
        raise BadValue(f"the prompt {prompt!r} has no token before the label", hint="give `prompt` some text")
    return [(ids[:kept], ids[kept:]) for ids in whole]


def ties(predictions: Sequence[Prediction]) -> int:
    """Return how often the best label shares its score with another."""
    every = [list(one.scores.values()) for one in predictions if one.scores]
    return sum(scores.count(max(scores)) > 1 for scores in every)


def _best(question: Question, scores: Mapping[str, float]) -> Prediction:
    taken = max(scores, key=lambda label: scores[label])  # the first of equal ones
    return Prediction(
        **question._asdict(), answer=taken, taken=taken, right=taken == question.expected, scores=dict(scores)
    )
