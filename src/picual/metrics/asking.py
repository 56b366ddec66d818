"""What every metric of answers has in common: which rows are asked, in which words, and what answers count as."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from picual.data.base import DataConfig, fill, template_columns
from picual.errors import BadValue, nearest
from picual.metrics import labels as labelling
from picual.metrics import predictions as predicting
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.classification import MOST_CLASSES
from picual.metrics.predictions import Prediction, Question
from picual.models import Model
from picual.models.session import Session, open_session
from picual.space import param

CHUNK = 64  # prompts between two signs of progress
FEWEST = 20  # rows of a part; fewer say nothing
PROBED = 0.25  # of the rows
END_MARKS = re.compile(r"(?:<[^<>\s]+>|\[/?[A-Z_]+\])+\s*$")  # `<|im_end|>`, `</s>`, `[/INST]`

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asking(Metric):
    """A metric of the answers to the rows of a data set."""

    extra: ClassVar[str] = "hf"
    cost: ClassVar[int] = 3

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
    by: Literal["generation", "likelihood"] = param(
        "generation", help="`likelihood`: no text is written; the class the model finds most likely is its answer."
    )
    labels: tuple[str, ...] | None = param(None, help="The classes; left out: what the rows of the data expect.")
    match: Literal["exact", "class"] = param(
        "exact", help="`class`: the first class that an answer names counts, whatever stands around it."
    )
    max_new_tokens: int = param(8, help="Longest answer.", unit="token")
    max_samples: int | None = param(None, help="Ask at most this many rows, from the first.")
    part: float = param(1.0, help="Ask this share of the rows, drawn by the seed of the data, but at least 20.")

    def __post_init__(self) -> None:
        """Refuse values outside their domains."""
        require_counts(self, "max_new_tokens", "max_samples")
        if not 0 < self.part <= 1:
            raise BadValue(f"`part` is {self.part}; it must be above 0 and at most 1", hint="leave out `part`")

    def probe(self) -> Self | None:
        """Return the same of a quarter of the rows."""
        return dataclasses.replace(self, part=PROBED) if self.part > PROBED else None

    def ask(self, model: Model, context: MetricContext) -> tuple[list[Prediction], list[str]]:
        """Ask the rows, keep ``predictions.jsonl``, and return what was answered, with the classes.

        Raises:
            BadValue: What is missing or does not fit, said before the model is loaded where that is possible.
            StepFailed: The logits after a prompt are not finite; it says which.
        """
        if self.data is None:
            raise BadValue(f"`{self.name}` needs `data`", hint="data: NAME, as under `data:` in the recipe")
        config = context.dataset(self.data, by=self.name)
        rows, classes = self.rows_and_classes(config)
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            questions = [self._question(row, config, session) for row in rows]
            if self.by == "likelihood":
                found = self._compare(session, questions, rows, classes, config, context, str(model.path))
            else:
                answers = self._generate(session, questions, self._stops(config), context)
                found = predicting.judged(questions, answers, classes, self.match)
        predicting.write(found, context.folder)
        return found, classes

    def rows_and_classes(self, config: DataConfig) -> tuple[list[Row], list[str]]:
        """Return the rows that are asked, and the classes they are of; no model is needed for that.

        Raises:
            BadValue: Rows, columns, labels and settings do not fit each other.
        """
        every, rows = self._rows(config)
        if self.prompt is not None or not config.chat:
            self._filled(self._expect(config) + self._prompt(config), rows[0])
        return rows, self._classes(every, config)

    # -- rows and words -------------------------------------------------------------------------------

    def _rows(self, config: DataConfig) -> tuple[list[Row], list[Row]]:
        """Return every row of the data, and those that are asked."""
        from picual.data.files import rows
        from picual.data.split import holdout_rows, train_rows

        every = list(rows(config))
        asked = every
        if self.split == "train":
            asked = list(train_rows(every, config))
        elif self.split == "holdout" and config.holdout:
            asked = list(holdout_rows(every, config))
        if not asked:
            raise BadValue(f"`{self.data}` has no rows to ask", hint="split: all")
        return every, drawn(asked[: self.max_samples], self.part, config.seed)

    def _classes(self, every: Sequence[Row], config: DataConfig) -> list[str]:
        expected = [self._expected(row, config) for row in every]
        classes = labelling.classes_of(expected, self.labels, data=str(self.data))
        if self.by == "likelihood" and self.labels is None and not 2 <= len(classes) <= MOST_CLASSES:
            raise BadValue(
                f"`by: likelihood` compares classes; the rows of `{self.data}` expect {len(classes)} answers",
                hint="by: generation",
            )
        return classes

    def _expected(self, row: Row, config: DataConfig) -> str:
        if config.chat and self.prompt is None:
            try:
                return str(row[config.chat][-1]["content"])
            except (KeyError, IndexError, TypeError):
                raise BadValue(
                    f"a row of `{self.data}` has no last message in `{config.chat}`",
                    hint='a chat is `[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]`',
                ) from None
        return self._filled(self._expect(config), row)

    def _question(self, row: Row, config: DataConfig, session: Session) -> Question:
        """Return the prompt of a row and the answer it expects."""
        expected = self._expected(row, config)
        if config.chat and self.prompt is None:
            messages = [dict(message) for message in row[config.chat]]
            return Question(session.chat_prompt(messages[:-1]), expected)
        prompt = self._filled(self._prompt(config), row)
        if self.chat:
            system = [{"role": "system", "content": self.system}] if self.system else []
            asked = {"role": "user", "content": prompt}
            return Question(session.chat_prompt([*system, asked]) + self.begin, expected)
        if self.by == "generation" and self.prompt is None and config.prompt is None:
            prompt = at_token_border(prompt, expected, session)
        return Question(prompt, expected)

    def _filled(self, template: str, row: Row) -> str:
        for column in template_columns(template):
            if column not in row:
                raise BadValue(f"`{self.data}` has no column `{column}`", hint=nearest(column, list(row)))
        return fill(template, row)

    def _expect(self, config: DataConfig) -> str:
        expect = self.expect or without_end_marks(config.response)
        if expect is None:
            raise BadValue(
                f"`{self.name}` does not know the expected answer", hint='expect: "{column}", a column of the data'
            )
        return expect.strip(" ")  # a blank before it belongs to no class's name

    def _prompt(self, config: DataConfig) -> str:
        if prompt := self.prompt or config.prompt:
            return prompt
        before, found, _ = (config.template or "").partition(self._expect(config))
        if not found:
            raise BadValue(
                f"`{self.name}` finds no `{self._expect(config)}` in the template of `{self.data}`",
                hint='give `prompt: "..."`, a template of what the model is asked',
            )
        return before

    def _stops(self, config: DataConfig) -> list[str]:
        """Return what ends an answer: a line break, or what follows it in the template."""
        after = ""
        if self.prompt is None and config.template and self.expect:
            after = config.template.partition(self.expect)[2].partition("{")[0]
        return ["\n", after.strip()] if after.strip() else ["\n"]

    # -- answers --------------------------------------------------------------------------------------

    def _generate(
        self, session: Session, questions: Sequence[Question], stops: list[str], context: MetricContext
    ) -> list[str]:
        """Return the answers in the order of the questions; like lengths go together."""
        order = sorted(range(len(questions)), key=lambda index: len(questions[index].prompt))
        answers = [""] * len(questions)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            prompts = [questions[index].prompt for index in chunk]
            found = session.generate(prompts, max_new_tokens=self.max_new_tokens, stop=stops)
            for index, answer in zip(chunk, found, strict=True):
                answers[index] = answer
            context.on_progress(start + len(chunk), len(order), "answers")
        return answers

    def _compare(
        self, session: Session, questions: Sequence[Question], rows: Sequence[Row], classes: Sequence[str],
        config: DataConfig, context: MetricContext, where: str,
    ) -> list[Prediction]:  # fmt: skip
        """Return the likeliest class of each question."""
        lead, after = self._around(config)
        end = (after or "\n") if labelling.overlap(classes) else ""
        found: list[Prediction] = []
        for start in range(0, len(questions), CHUNK):
            part = slice(start, start + CHUNK)
            before = [
                _usual_lead(question.prompt, session) if lead is None else self._filled(lead, row)
                for question, row in zip(questions[part], rows[part], strict=True)
            ]
            found += labelling.likeliest(session, questions[part], classes, before=before, after=end, where=where)
            context.on_progress(len(found), len(questions), "answers")
        return found

    def _around(self, config: DataConfig) -> tuple[str | None, str]:
        """Return what the data puts between prompt and answer, None where they do not say, and what ends it."""
        if self.prompt is not None or config.chat:
            return None, ""
        if config.prompt is None:
            return "", (config.template or "").partition(self._expect(config))[2].partition("{")[0]
        lead, found, after = (config.response or "").partition(self._expect(config))
        return (lead, after.partition("{")[0]) if found else (None, "")


def _usual_lead(prompt: str, session: Session) -> str:
    """Return the blank that usually follows a prompt such as "Tone:"; none after a blank, a break or a token."""
    last = prompt[-1:]
    if not last or last.isspace() or not last.isascii() or not session.decode(session.encode(prompt)[-1:]):
        return ""
    return " "


def drawn(rows: Sequence[Row], part: float, seed: int) -> list[Row]:
    """Return a share of the rows in their order, drawn by a seed: of sorted rows the first are no sample."""
    count = max(math.ceil(len(rows) * part), FEWEST)
    if count >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), count))]


def without_end_marks(response: str | None) -> str | None:
    """Return a response's template without the special tokens at its end, which no answer holds as text."""
    return None if response is None else END_MARKS.sub("", response)


def at_token_border(prompt: str, expected: str, session: Session) -> str:
    """Return ``prompt`` without a last blank that the model has seen only as part of the answer's first token.

    After "Tone: " most tokenizers read the answer as " joy": one token, blank included.
    """
    bare = prompt.rstrip(" ")
    if bare == prompt or not bare:
        return prompt
    ids = session.encode(prompt)
    return prompt if session.encode(prompt + expected)[: len(ids)] == ids else bare
