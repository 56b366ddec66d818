"""A metric of scikit-learn's, by name, on a model's answers to the rows of a data set.

What it measures: ``metric`` is a function of ``sklearn.metrics`` and ``options`` are its arguments. It gets the
expected answers and the class that each answer counts as (``""`` for none of them), as they are in
``predictions.jsonl``. One that averages over classes, such as ``f1_score``, takes those that a row expects or
an answer names, unless ``options`` hold ``labels``. One that scores numbers, such as ``mean_absolute_error``, gets
the answers as numbers; one that scores probabilities, such as ``log_loss``, needs ``by: likelihood``.
When: accuracy is not what the task is judged by. A lower number counts as better when the name says loss or error.
Cost: as ``accuracy``.
Source: scikit-learn, User Guide 3.4, metrics and scoring.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from picual import _lazy
from picual.errors import BadValue, nearest
from picual.metrics import sklearn_names
from picual.metrics.asking import Asking
from picual.metrics.base import MetricContext
from picual.metrics.classification import wrong_examples
from picual.metrics.predictions import Prediction
from picual.metrics.resampling import percentile
from picual.models import Model
from picual.space import Settings, param

RESAMPLES = 400  # each is a call of scikit-learn's


@dataclass(frozen=True, kw_only=True)
class Sklearn(Asking):
    """Any function of scikit-learn's that scores predictions."""

    name: ClassVar[str] = "sklearn"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    extra: ClassVar[str] = "evaluate"
    imports: ClassVar[tuple[str, ...]] = ("sklearn",)
    keys: ClassVar[tuple[str, ...]] = ("score", "count")

    metric: str = param("accuracy_score", help="Name of a function in `sklearn.metrics`.")
    options: Mapping[str, Any] = param(Settings(), help="Arguments of the function, such as `{average: macro}`.")
    better: str | None = param(None, help="`higher` or `lower`; left out: lower for what is called loss or error.")

    def __post_init__(self) -> None:
        """Refuse a function that scikit-learn does not have."""
        super().__post_init__()
        known = sklearn_names.names()
        if self.metric not in known:
            hint = nearest(self.metric, known) or "see https://scikit-learn.org/stable/api/sklearn.metrics.html"
            raise BadValue(f"`metric` is `{self.metric}`, which is no score of sklearn.metrics", hint=hint)
        if self.better not in {None, "higher", "lower"}:
            raise BadValue(f"`better` is `{self.better}`", hint=nearest(str(self.better), ["higher", "lower"]))
        if self.metric in sklearn_names.OF_PROBABILITIES and self.by != "likelihood":
            raise BadValue(f"`metric: {self.metric}` scores probabilities, not texts", hint="by: likelihood")

    def rises(self) -> bool:
        """Say whether a higher number is a better one."""
        return not sklearn_names.falls(self.metric) if self.better is None else self.better == "higher"

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``score`` with its bootstrap interval, the number of rows and wrong examples."""
        metrics = _lazy.need("sklearn.metrics", extra=self.extra, by=self.name)
        found, classes = self.ask(model, context)
        score = self._scorer(getattr(metrics, self.metric), classes)
        value = score(found)
        return {
            "score": value, "count": len(found), "metric": self.metric, "better": _WORDS[self.rises()],
            "intervals": {"score": list(_interval(score, found, context.seed))},
            "examples": wrong_examples(found),
        }  # fmt: skip

    def _scorer(
        self, function: Callable[..., Any], classes: Sequence[str]
    ) -> Callable[[Sequence[Prediction]], float]:
        """Return the function of predictions that ``metric`` and ``options`` make."""
        inputs = self._inputs()
        takes = inspect.signature(function).parameters.keys()

        def score(found: Sequence[Prediction]) -> float:
            options = dict(self.options)
            if inputs is _probabilities and "labels" in takes:
                options.setdefault("labels", sorted(classes))
            elif {"labels", "average"} <= takes:
                seen = {one.expected for one in found} | {one.taken for one in found} - {""}
                options.setdefault("labels", sorted(seen))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of classes with nothing to divide by: they are 0
                    value = function(*inputs(found), **options)
            except (ValueError, TypeError) as error:
                raise BadValue(
                    f"scikit-learn's `{self.metric}` says: {next(iter(str(error).splitlines()), '')}",
                    hint="options: {average: macro}" if "average" in str(error) else "change `options`",
                ) from error
            if isinstance(value, bool | int | float) or getattr(value, "ndim", None) == 0:
                return float(value)
            raise BadValue(
                f"scikit-learn's `{self.metric}` gives more than one number with these options",
                hint="options: {average: macro}",
            )

        return score

    def _inputs(self) -> Callable[[Sequence[Prediction]], tuple[Any, Any]]:
        if self.metric in sklearn_names.OF_NUMBERS:
            return _numbers
        return _probabilities if self.metric in sklearn_names.OF_PROBABILITIES else _classes


_WORDS = {True: "higher", False: "lower"}


def _classes(found: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    return [one.expected for one in found], [one.taken for one in found]


def _numbers(found: Sequence[Prediction]) -> tuple[list[float], list[float]]:
    return [_number(one.expected, one) for one in found], [_number(one.answer, one) for one in found]


def _number(text: str, of: Prediction) -> float:
    try:
        value = float(text.strip())
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadValue(
            f"`{text.strip()}` is no number; {of.expected.strip()} was expected of the prompt {of.prompt[-60:]!r}",
            hint="metric: accuracy_score",
        )
    return value


def _probabilities(found: Sequence[Prediction]) -> tuple[list[str], Any]:
    """Return the expected classes, and the probability of each class (rows, classes in sorted order).

    Of two classes it is the probability of the second, as scikit-learn wants it.
    """
    import numpy as np

    names = sorted(found[0].scores or {})
    logs = np.array([[(one.scores or {})[name] for name in names] for one in found])  # (rows, classes)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return [one.expected for one in found], shares[:, 1] if len(names) == 2 else shares


def _interval(
    score: Callable[[Sequence[Prediction]], float], found: Sequence[Prediction], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval, without drawings that lack what the function needs."""
    chance = random.Random(seed)
    scores = []
    for _ in range(RESAMPLES):
        with contextlib.suppress(BadValue):
            scores.append(score(chance.choices(found, k=len(found))))
    kept = [value for value in scores if math.isfinite(value)] or [score(found)]
    return percentile(kept, 2.5), percentile(kept, 97.5)
