"""How often a model writes the expected answer: it continues each prompt, and the text is compared.

What it measures: exact match of the generated text, up to its first line break or the text that ends an answer in
the data's template, without regard to case, or to blanks and punctuation around it. An untuned model talks around
its answer: ``match: class`` takes the first class it names.
When: the task has one right answer, such as a class. Its floor is ``bag-of-words``.
Cost: one short answer a row.
Source of the interval: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from picual.data.base import DataConfig, fill, template_columns
from picual.errors import BadValue, nearest
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.models import Model
from picual.models.session import Session, open_session
from picual.space import param

CHUNK = 64  # prompts between two signs of progress
MOST_CLASSES = 50  # more are not classes
MOST_EXAMPLES = 5
TAIL = 200  # characters of a prompt shown with an example
AROUND = " \t\r\n.,;:!?\"'*`"


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Exact match of generated answers."""

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    extra: ClassVar[str] = "hf"

    data: str | None = param(None, help="Data set whose rows are asked.", role="data")
    split: Literal["all", "holdout", "train"] = param(
        "holdout", help="Which rows; without a holdout in the data, all of them."
    )
    expect: str | None = param(None, help="Expected answer, such as `{tone}`; left out: the data's response.")
    prompt: str | None = param(
        None, help="Prompt; left out: the data's prompt, or what stands before `expect` in its template."
    )
    chat: bool = param(False, help="Put `prompt` through the model's chat template as the user's message.")
    system: str | None = param(None, help="System message of the chat.")
    begin: str = param(
        "", help="What the assistant's answer in the chat begins with; the model goes on from there."
    )
    match: Literal["exact", "class"] = param(
        "exact", help="`class`: the first class that an answer names counts, whatever stands around it."
    )
    max_new_tokens: int = param(8, help="Longest answer.", unit="token")
    max_samples: int | None = param(None, help="Ask at most this many rows, from the first.")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "max_new_tokens", "max_samples")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``accuracy``, its 95 % interval ``low`` to ``high``, counts, classes and wrong examples."""
        if self.data is None:
            raise BadValue("`accuracy` needs `data`", hint="data: NAME, as under `data:` in the recipe")
        config = context.dataset(self.data, by=self.name)
        rows = self._rows(config)
        if self.prompt is not None or not config.chat:  # before the model is loaded
            self._filled(self._expect(config) + self._prompt(config), rows[0])
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            questions = [self._question(row, config, session) for row in rows]
            answers = self._ask(session, questions, self._stops(config), context)
        return summary(questions, answers, match=self.match)

    def _rows(self, config: DataConfig) -> list[Mapping[str, Any]]:
        from picual.data.files import rows
        from picual.data.split import holdout_rows, train_rows

        found = list(rows(config))
        if self.split == "train":
            found = list(train_rows(found, config))
        elif self.split == "holdout" and config.holdout:
            found = list(holdout_rows(found, config))
        if not found:
            raise BadValue(f"`{self.data}` has no rows to ask", hint="split: all")
        return found[: self.max_samples]

    def _question(self, row: Mapping[str, Any], config: DataConfig, session: Session) -> tuple[str, str]:
        """Return the prompt of a row and the answer it expects."""
        if config.chat and self.prompt is None:
            messages = [dict(message) for message in row[config.chat]]
            return session.chat_prompt(messages[:-1]), str(messages[-1]["content"])
        expected = self._filled(self._expect(config), row)
        if self.chat:
            system = [{"role": "system", "content": self.system}] if self.system else []
            asked = {"role": "user", "content": self._filled(self._prompt(config), row)}
            return session.chat_prompt([*system, asked]) + self.begin, expected
        prompt = self._filled(self._prompt(config), row)
        if self.prompt is None and config.prompt is None:
            prompt = at_token_border(prompt, expected, session)
        return prompt, expected

    def _filled(self, template: str, row: Mapping[str, Any]) -> str:
        for column in template_columns(template):
            if column not in row:
                raise BadValue(f"`{self.data}` has no column `{column}`", hint=nearest(column, list(row)))
        return fill(template, row)

    def _expect(self, config: DataConfig) -> str:
        expect = self.expect or config.response
        if expect is None:
            raise BadValue(
                "`accuracy` does not know the expected answer", hint='expect: "{column}", a column of the data'
            )
        return expect

    def _prompt(self, config: DataConfig) -> str:
        if prompt := self.prompt or config.prompt:
            return prompt
        before, found, _ = (config.template or "").partition(self._expect(config))
        if not found:
            raise BadValue(
                f"`accuracy` finds no `{self._expect(config)}` in the template of `{self.data}`",
                hint='give `prompt: "..."`, a template of what the model is asked',
            )
        return before

    def _stops(self, config: DataConfig) -> list[str]:
        """Return what ends an answer: a line break, or what follows it in the template."""
        after = ""
        if self.prompt is None and config.template and self.expect:
            after = config.template.partition(self.expect)[2].partition("{")[0]
        return ["\n", after.strip()] if after.strip() else ["\n"]

    def _ask(
        self, session: Session, questions: Sequence[tuple[str, str]], stops: list[str], context: MetricContext
    ) -> list[str]:
        """Return the answers in the order of the questions; like lengths go together."""
        order = sorted(range(len(questions)), key=lambda index: len(questions[index][0]))
        answers = [""] * len(questions)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            prompts = [questions[index][0] for index in chunk]
            found = session.generate(prompts, max_new_tokens=self.max_new_tokens, stop=stops)
            for index, answer in zip(chunk, found, strict=True):
                answers[index] = answer
            context.on_progress(start + len(chunk), len(order), "answers")
        return answers


def at_token_border(prompt: str, expected: str, session: Session) -> str:
    """Return ``prompt`` without a last blank that the model has seen only as part of the answer's first token.

    After "Tone: " most tokenizers read the answer as " joy": one token, blank included.
    """
    bare = prompt.rstrip(" ")
    if bare == prompt or not bare:
        return prompt
    ids = session.encode(prompt)
    return prompt if session.encode(prompt + expected)[: len(ids)] == ids else bare


def summary(
    questions: Sequence[tuple[str, str]], answers: Sequence[str], *, match: Literal["exact", "class"] = "exact"
) -> dict[str, Any]:
    """Return the numbers of a list of (prompt, expected) and the answers to them."""
    classes = sorted({expected for _, expected in questions})
    taken = [first_class(answer, classes) for answer in answers] if match == "class" else answers
    right = [same(answer, expected) for (_, expected), answer in zip(questions, taken, strict=True)]
    low, high = wilson(sum(right), len(right))
    values: dict[str, Any] = {
        "accuracy": sum(right) / len(right), "count": len(right), "correct": sum(right), "low": low, "high": high,
    }  # fmt: skip
    if len(classes) <= MOST_CLASSES:
        values["per_class"] = {
            name: _share([hit for (_, expected), hit in zip(questions, right, strict=True) if expected == name])
            for name in classes
        }
    wrong = [
        {"prompt": prompt[-TAIL:], "expected": expected, "answer": answer.strip()}
        for (prompt, expected), answer, hit in zip(questions, answers, right, strict=True)
        if not hit
    ]
    return {**values, "examples": wrong[:MOST_EXAMPLES]}


def same(answer: str, expected: str) -> bool:
    """Say whether an answer is the expected one."""
    wanted = expected.strip(AROUND).casefold()
    if not wanted:  # the punctuation itself is the answer
        return answer.strip() == expected.strip()
    return answer.strip(AROUND).casefold() == wanted


def first_class(answer: str, classes: Sequence[str]) -> str:
    """Return the class that an answer names first, as a word of its own, or ``""``."""
    # The longest first: of `sad` and `sad-ish`, both found at one place, the longer is meant.
    names = "|".join(re.escape(name.casefold()) for name in sorted(classes, key=len, reverse=True) if name)
    found = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer.casefold()) if names else None
    return found.group() if found else ""


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``right`` in ``count``, by Wilson's score."""
    z = 1.959963984540054  # of the normal distribution, two-sided 95 %
    share = right / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    # Rounding must not put the bound of a clean sweep beside it.
    return (centre - reach if right else 0.0), (centre + reach if right < count else 1.0)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
