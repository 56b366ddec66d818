"""How often a model gives the expected answer: it continues each prompt, or chooses between classes.

What it measures: by generation, exact match of the generated text, up to its first line break or the text that
ends an answer in the data's template, without regard to case, or to blanks and punctuation around it. An untuned
model talks around its answer: ``match: class`` takes the first class it names. By likelihood, whether the expected
class is the one whose tokens the model finds most likely after the prompt. Where the answers are classes, also
macro F1 (the mean over the classes that a row expects or an answer names), numbers by class, and the confusion.
When: the task has one right answer, such as a class. Its floor is ``bag-of-words``.
Cost: one short answer a row; by likelihood, one pass over each prompt and its classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from picual.metrics.asking import Asking
from picual.metrics.base import MetricContext
from picual.metrics.classification import summary
from picual.metrics.labels import ties
from picual.models import Model


@dataclass(frozen=True, kw_only=True)
class Accuracy(Asking):
    """Share of right answers."""

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = 2
    key: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    keys: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "count", "correct", "low", "high", "ties")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``accuracy`` and ``macro_f1`` with 95 % intervals, hits, counts, classes and wrong examples."""
        found, classes = self.ask(model, context)
        values = summary(found, classes, seed=context.seed)
        return values if self.by == "generation" else {**values, "ties": ties(found)}
