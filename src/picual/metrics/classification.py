"""Numbers of a classifier, from what it answered: confusion, precision, recall, F1, and how sure they are.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927; the interval
of macro F1 is the percentile bootstrap over the rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from picual.metrics.predictions import Prediction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_CLASSES = 50  # more are not classes
MOST_EXAMPLES = 5
TAIL = 200  # characters of a prompt shown with an example
RESAMPLES = 2000
NORMAL = 1.959963984540054  # of the normal distribution, two-sided 95 %


def summary(predictions: Sequence[Prediction], classes: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Return the numbers of predictions: accuracy with its interval, by class where there are classes.

    Args:
        predictions: One or more.
        classes: In the order in which tables list them; those that no row has or got are left out.
        seed: Of the bootstrap.
    """
    right = [one.right for one in predictions]
    low, high = wilson(sum(right), len(right))
    values: dict[str, Any] = {
        "accuracy": sum(right) / len(right), "count": len(right), "correct": sum(right), "low": low, "high": high,
        "intervals": {"accuracy": [low, high]}, "hits": "".join("01"[hit] for hit in right),
    }  # fmt: skip
    seen = {one.expected for one in predictions} | {one.taken for one in predictions} - {""}
    labels = [name for name in classes if name in seen] + sorted(seen - set(classes))
    if len(labels) <= MOST_CLASSES:
        counts = confusion(predictions, labels)
        values["macro_f1"] = macro_f1(counts)
        drawn = macro_f1_interval(counts, seed)
        # Where no row is wrong, or none right, there is nothing to draw anew.
        values["intervals"]["macro_f1"] = list(drawn) if drawn[0] < drawn[1] else [low, high]
        values["per_class"] = per_class(counts, labels)
        values["confusion"] = {"labels": labels, "counts": _trimmed(counts)}
    return {**values, "examples": wrong_examples(predictions)}


def confusion(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[list[int]]:
    """Return how often each expected label (row) was answered by each (column), and by none (last column)."""
    pairs = Counter((one.expected, one.taken) for one in predictions)
    return [[pairs[expected, taken] for taken in (*labels, "")] for expected in labels]


def per_class(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and the number of rows of each label; 0 where there is nothing to divide by."""
    found = {}
    for place, label in enumerate(labels):
        hits, rows = counts[place][place], sum(counts[place])
        answered = sum(row[place] for row in counts)
        found[label] = {
            "precision": _share(hits, answered), "recall": _share(hits, rows),
            "f1": _share(2 * hits, rows + answered), "support": rows,
        }  # fmt: skip
    return found


def macro_f1(counts: Sequence[Sequence[int]]) -> float:
    """Return the mean F1 of the labels."""
    every = per_class(counts, [str(place) for place in range(len(counts))])
    return sum(one["f1"] for one in every.values()) / len(every)


def macro_f1_interval(counts: Sequence[Sequence[int]], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of macro F1: rows drawn anew are cells drawn anew."""
    import numpy as np

    table = np.asarray(counts)  # (L, L + 1)
    rows = int(table.sum())
    drawn = np.random.default_rng(seed).multinomial(rows, table.ravel() / rows, RESAMPLES)
    scores = _macro_f1_of_many(drawn.reshape(RESAMPLES, *table.shape))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def _macro_f1_of_many(tables: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the macro F1 of each table (B, L, L + 1); a label that a table lacks does not count in it."""
    import numpy as np

    hits = np.diagonal(tables, axis1=1, axis2=2)  # (B, L)
    met = tables.sum(axis=2) + tables[:, :, :-1].sum(axis=1)  # (B, L) expected plus answered
    scores = np.where(met > 0, 2 * hits / np.maximum(met, 1), 0.0)
    found: npt.NDArray[np.float64] = scores.sum(axis=1) / np.maximum((met > 0).sum(axis=1), 1)
    return found


def wrong_examples(predictions: Sequence[Prediction]) -> list[dict[str, str]]:
    """Return the first few rows with a wrong answer."""
    wrong = [
        {"prompt": one.prompt[-TAIL:], "expected": one.expected, "answer": one.answer.strip()}
        for one in predictions
        if not one.right
    ]
    return wrong[:MOST_EXAMPLES]


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``right`` in ``count``, by Wilson's score."""
    z = NORMAL
    share = right / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    # Rounding must not put the bound of a clean sweep beside it.
    return (centre - reach if right else 0.0), (centre + reach if right < count else 1.0)


def _trimmed(counts: list[list[int]]) -> list[list[int]]:
    """Leave out the column of answers that are no label, when there are none."""
    return counts if any(row[-1] for row in counts) else [row[:-1] for row in counts]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
