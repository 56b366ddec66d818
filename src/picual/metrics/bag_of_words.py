"""The floor under a classifier: words counted, no model.

What it measures: accuracy of logistic regression on TF-IDF of words and pairs of words, trained on the training
rows. A fine-tuned model that does not beat it has learnt nothing that counting would not give.
Cost: a second for a few hundred rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from picual import _lazy
from picual.data.base import DataConfig
from picual.errors import BadValue, nearest
from picual.metrics import predictions
from picual.metrics.base import Metric, MetricContext
from picual.metrics.classification import summary
from picual.metrics.predictions import Question
from picual.models import Model
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class BagOfWords(Metric):
    """Accuracy of a linear model on counted words."""

    name: ClassVar[str] = "bag-of-words"
    version: ClassVar[int] = 2
    key: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("sklearn",)
    scope: ClassVar[Literal["model", "data"]] = "data"
    cost: ClassVar[int] = 1
    keys: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "count", "correct", "low", "high", "train_count")

    train: str | None = param(None, help="Data set to train on.", role="data")
    test: str | None = param(None, help="Data set to score on; left out: the holdout of `train`.", role="data")
    text: str | None = param(None, help="Column with the text; left out: the first of two the data names.")
    label: str | None = param(None, help="Column with the class; left out: the second of two.")
    c: float = param(1.0, help="Inverse strength of the L2 penalty, scikit-learn's `C`.")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``accuracy`` and what goes with it; the model is not looked at."""
        if self.train is None:
            raise BadValue("`bag-of-words` needs `train`", hint="train: NAME, as under `data:` in the recipe")
        config = context.dataset(self.train, by=self.name)
        training, scored = self._rows(config, context)
        text, label = self._columns(config, training[0])
        expected = [str(row[label]) for row in scored]
        guesses = _classify(
            [str(row[text]) for row in training], [str(row[label]) for row in training],
            [str(row[text]) for row in scored], self.c,
        )  # fmt: skip
        questions = [Question(str(row[text]), name) for row, name in zip(scored, expected, strict=True)]
        classes = sorted({str(row[label]) for row in training} | set(expected))
        found = predictions.judged(questions, guesses, classes)
        predictions.write(found, context.folder)
        return {**summary(found, classes, seed=context.seed), "train_count": len(training)}

    def _rows(
        self, config: DataConfig, context: MetricContext
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        from picual.data.files import rows
        from picual.data.split import holdout_rows, train_rows

        every = list(rows(config))
        if self.test is not None:
            scored = list(rows(context.dataset(self.test, by=self.name)))
        else:
            scored = list(holdout_rows(every, config)) if config.holdout else []
        training = list(train_rows(every, config)) if config.holdout else every
        if not training or not scored:
            raise BadValue(
                "`bag-of-words` needs rows to train on and others to score",
                hint="give `test`, or a `holdout` in the data",
            )
        return training, scored

    def _columns(self, config: DataConfig, row: Mapping[str, Any]) -> tuple[str, str]:
        named = config.columns()
        text = self.text or (named[0] if len(named) == 2 else None)
        label = self.label or (named[1] if len(named) == 2 else None)
        if text is None or label is None:
            raise BadValue("`bag-of-words` needs `text` and `label`", hint=f"columns: {', '.join(row)}")
        for column in (text, label):
            if column not in row:
                raise BadValue(f"`{self.train}` has no column `{column}`", hint=nearest(column, list(row)))
        return text, label


def _classify(texts: list[str], labels: list[str], unseen: list[str], c: float) -> list[str]:
    """Return the guessed label of each unseen text."""
    _lazy.need("sklearn", extra="evaluate", by=BagOfWords.name)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=c, max_iter=1000)
    )
    return [str(guess) for guess in pipeline.fit(texts, labels).predict(unseen)]
