from __future__ import annotations

import math
import random

import pytest
from sklearn import metrics

from picual.metrics.classification import (
    MOST_CLASSES,
    confusion,
    macro_f1,
    macro_f1_interval,
    summary,
    wilson,
)  # fmt: skip
from picual.metrics.predictions import Prediction

CLASSES = ["joy", "fear", "sadness", "surprise"]


def answered(count: int, *, seed: int = 0, outside: float = 0.1) -> list[Prediction]:
    """Rows of an unbalanced task, two thirds answered right and some with no class at all."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        expected = chance.choices(CLASSES, [5, 3, 2, 1])[0]
        taken = expected if chance.random() < 0.65 else chance.choice(CLASSES)
        taken = "" if chance.random() < outside else taken
        made.append(Prediction(prompt=str(number), expected=expected, answer=taken, taken=taken,
                               right=taken == expected))  # fmt: skip
    return made


@pytest.mark.parametrize("outside", [0.0, 0.2])
def test_the_numbers_are_scikit_learns(outside: float) -> None:
    found = answered(200, outside=outside)
    expected, taken = [one.expected for one in found], [one.taken for one in found]

    values = summary(found, CLASSES)

    assert values["accuracy"] == metrics.accuracy_score(expected, taken)
    assert values["macro_f1"] == pytest.approx(
        metrics.f1_score(expected, taken, labels=CLASSES, average="macro"), abs=1e-12
    )
    known = metrics.classification_report(expected, taken, labels=CLASSES, output_dict=True, zero_division=0)
    for label, numbers in values["per_class"].items():
        assert numbers["support"] == known[label]["support"]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert numbers[ours] == pytest.approx(known[label][theirs], abs=1e-12)
    columns = [*CLASSES, ""] if outside else CLASSES
    table = metrics.confusion_matrix(expected, taken, labels=columns)[: len(CLASSES)]
    assert values["confusion"] == {"labels": CLASSES, "counts": table.tolist()}


def test_a_class_that_is_neither_expected_nor_answered_does_not_count() -> None:
    found = [Prediction(prompt="", expected="joy", answer="joy", taken="joy", right=True)] * 3

    values = summary(found, CLASSES)

    assert (values["macro_f1"], list(values["per_class"])) == (1.0, ["joy"])
    assert values["intervals"]["macro_f1"] == [values["low"], 1.0]  # no row of another kind can be drawn


def test_open_answers_have_no_tables() -> None:
    found = [
        Prediction(prompt="", expected=str(number), answer="", taken="", right=False)
        for number in range(MOST_CLASSES + 1)
    ]

    assert not {"per_class", "macro_f1", "confusion"} & set(summary(found, []))


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = macro_f1(confusion(answered(40_000, seed=99), CLASSES))
    inside = 0
    for seed in range(200):
        low, high = macro_f1_interval(confusion(answered(150, seed=seed), CLASSES), seed)
        inside += low <= truth <= high

    assert (
        0.88 <= inside / 200 <= 0.99
    )  # 0.95, less what the percentile bootstrap loses, plus or minus 3 deviations


def test_the_bootstrap_repeats_with_its_seed() -> None:
    counts = confusion(answered(100), CLASSES)

    assert macro_f1_interval(counts, 1) == macro_f1_interval(counts, 1) != macro_f1_interval(counts, 2)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (120, 240)])
def test_the_interval_holds_the_shares_that_lie_within_two_deviations_of_what_was_seen(
    right: int, count: int
) -> None:
    low, high = wilson(right, count)

    assert 0 <= low <= right / count <= high <= 1
    for bound in (low, high):  # each bound is a true share for which the seen one is 1.96 deviations away
        if 0 < bound < 1:
            deviation = math.sqrt(bound * (1 - bound) / count)
            assert abs(right / count - bound) == pytest.approx(1.959963984540054 * deviation)
