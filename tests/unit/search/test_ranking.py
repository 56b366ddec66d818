"""Which trial is best, tied or closest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from picual.search import ranking
from picual.search.goals import Measurement, Objective
from picual.search.trial import State, Trial

ACCURACY = Objective(Measurement("accuracy", "accuracy"), "maximize")
SPEED = Objective(Measurement("latency", "ms_per_token"), "minimize")


def trial(
    number: int, accuracy: float | None, *, size: float = 100.0, state: State = "complete", broken: float = -1.0,
    ms: float | None = None, **values: Any,
) -> Trial:  # fmt: skip
    metrics = {"accuracy": {"accuracy": accuracy, **values}, "size": {"size_mb": size}}
    if ms is not None:
        metrics["latency"] = {"ms_per_token": ms}
    losses = [None if accuracy is None else -accuracy] + ([ms] if ms is not None else [])
    return Trial(
        number=number, candidate={"n": number}, state=state, metrics=metrics, losses=tuple(losses),
        violations={"size <= 110MB": broken},
    )  # fmt: skip


def numbers(trials: list[Trial]) -> list[int]:
    return [one.number for one in trials]


def test_what_is_missing_broken_dropped_or_failed_never_leads() -> None:
    good = trial(4, 0.5)
    others = [
        trial(0, None),
        trial(1, 0.9, broken=0.2),
        trial(2, 0.9, state="dropped"),
        trial(3, 0.9, state="failed"),
    ]

    assert ranking.best([*others, good], [ACCURACY]) == (good, [])
    assert ranking.ranked([*others, good], [ACCURACY])[0] is good
    assert ranking.ranked([*others, good], [ACCURACY])[-1].number == 3
    assert ranking.best(others, [ACCURACY])[0] is None


def test_ties_inside_the_noise_go_to_the_smaller_model() -> None:
    large = trial(0, 0.90, size=104, intervals={"accuracy": [0.86, 0.93]})
    small = trial(1, 0.89, size=88, intervals={"accuracy": [0.85, 0.92]})
    worse = trial(2, 0.70, size=50, intervals={"accuracy": [0.65, 0.75]})

    best, tied = ranking.best([large, small, worse], [ACCURACY])

    assert best is small
    assert numbers(tied) == [0, 1]


def test_a_number_without_noise_is_taken_at_its_word() -> None:
    best, tied = ranking.best([trial(0, 0.90, size=104), trial(1, 0.8999, size=88)], [ACCURACY])

    assert best is not None
    assert best.number == 0
    assert tied == []


def test_on_the_same_samples_the_pairs_that_differ_decide() -> None:
    """20 rows of 240 lost and none gained is no noise, though the intervals of the two shares overlap."""
    whole, less = "1" * 220 + "0" * 20, "1" * 200 + "0" * 40
    mixed = "0" * 10 + "1" * 210 + "1" * 8 + "0" * 12
    wide = {"accuracy": [0.7, 0.99]}

    leader = trial(0, 220 / 240, size=104, hits=whole, intervals=wide)
    lost = trial(1, 200 / 240, size=88, hits=less, intervals=wide)
    traded = trial(2, 218 / 240, size=96, hits=mixed, intervals=wide)

    assert numbers(ranking.best([leader, lost, traded], [ACCURACY])[1]) == [0, 2]


@pytest.mark.parametrize(("lost", "tied"), [(5, True), (6, False)])
def test_few_pairs_that_differ_are_chance(lost: int, tied: bool) -> None:
    """Of 5 pairs all fall one way in 2 of 32 cases, of 6 in 2 of 64: McNemar's exact test."""
    leader = trial(1, 0.9, size=104, hits="1" * 90 + "0" * 10)
    other = trial(2, 0.9 - lost / 100, size=88, hits="1" * (90 - lost) + "0" * (10 + lost))

    assert (ranking.best([leader, other], [ACCURACY])[0] is other) is tied


def test_hits_decide_only_for_the_number_they_are_of() -> None:
    f1 = Objective(Measurement("accuracy", "macro_f1"), "maximize")
    hits = "1" * 50 + "0" * 50
    good = trial(1, 0.5, size=100, hits=hits, macro_f1=0.9, intervals={"macro_f1": [0.85, 0.95]})
    bad = trial(2, 0.5, size=50, hits=hits, macro_f1=0.3, intervals={"macro_f1": [0.25, 0.35]})
    trials = [replace(one, losses=(-one.metrics["accuracy"]["macro_f1"],)) for one in (good, bad)]

    best, tied = ranking.best(trials, [f1])

    assert best is trials[0]
    assert tied == []


def test_the_second_objective_decides_between_ties_of_the_first() -> None:
    noisy = {"accuracy": [0.8, 0.95]}
    slow = trial(0, 0.90, size=80, ms=9.0, intervals=noisy)
    fast = trial(1, 0.89, size=90, ms=5.0, intervals=noisy)

    assert ranking.best([slow, fast], [ACCURACY, SPEED])[0] is fast


def test_the_front_holds_what_no_other_beats_in_everything() -> None:
    trials = [
        trial(0, 0.9, ms=9.0),
        trial(1, 0.8, ms=5.0),
        trial(2, 0.8, ms=6.0),
        trial(3, 0.95, ms=1.0, broken=1),
    ]

    assert numbers(ranking.front(trials)) == [0, 1]


def test_the_closest_is_the_one_whose_limits_are_least_broken() -> None:
    trials = [trial(0, 0.9, broken=0.3), trial(1, 0.2, broken=0.1), trial(2, None, broken=0.0, state="failed")]

    closest = ranking.closest(trials)

    assert closest is not None
    assert closest.number == 1
    forecast = replace(trials[0], number=4, state="dropped", violations={"size": 0.01, "kl": None})
    assert ranking.closest([*trials, forecast]) is closest
    assert ranking.closest([forecast]) is forecast
