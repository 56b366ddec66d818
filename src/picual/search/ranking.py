"""Which trial is best: feasible before not, then by the objectives in order, ties inside the noise by size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from picual.search.goals import Measurement, Objective, Values
from picual.search.trial import Trial

ONE_IN = 20  # chance, below which a difference is taken for one


def best(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[Trial | None, list[Trial]]:
    """Return the best trial, and those that the first objective cannot tell from the leading one.

    Among trials tied on one objective the next decides, then size, then which was first.
    """
    left = [trial for trial in trials if trial.feasible]
    tied: list[Trial] = []
    for number, objective in enumerate(objectives):
        if len(left) < 2:
            break
        leader = min(left, key=lambda trial: (_loss(trial, number), trial.size, trial.number))
        left = [trial for trial in left if trial is leader or is_tie(trial, leader, objective, number)]
        if number == 0:
            tied = left if len(left) > 1 else []
    return min(left, key=lambda trial: (trial.size, trial.number), default=None), tied


def least(trials: Sequence[Trial]) -> Trial | None:
    """Return the feasible trial that has the least loss by the first objective; ties go to the smaller one."""
    feasible = (trial for trial in trials if trial.feasible)
    return min(feasible, key=lambda trial: (_loss(trial, 0), trial.size, trial.number), default=None)


def is_tie(trial: Trial, leader: Trial, objective: Objective, number: int) -> bool:
    """Say whether two trials differ by no more than the noise of the objective."""
    if _loss(trial, number) == _loss(leader, number):
        return True
    return is_noise(objective.measurement, trial.metrics, leader.metrics) is True


def is_noise(measurement: Measurement, ours: Values, theirs: Values) -> bool | None:
    """Say whether two models differ by no more than the noise of a number; None when it is not known to have any.

    On the same samples those that only one got right decide (McNemar's exact test); else each value must lie in
    the other's interval.
    """
    hits = [_hits(measurement, values) for values in (ours, theirs)]
    if hits[0] and len(hits[0]) == len(hits[1]):
        pairs = list(zip(*hits, strict=True))
        return _is_chance(pairs.count(("1", "0")), pairs.count(("0", "1")))
    intervals = [measurement.interval(values) for values in (ours, theirs)]
    numbers = [measurement.of(values) for values in (ours, theirs)]
    if intervals[0] is None or intervals[1] is None or numbers[0] is None or numbers[1] is None:
        return None
    inside = intervals[1][0] <= numbers[0] <= intervals[1][1]
    return inside and intervals[0][0] <= numbers[1] <= intervals[0][1]


def _hits(measurement: Measurement, values: Values) -> str:
    """Return a 0 or 1 a sample where the number is their mean: a metric has other numbers too, such as F1."""
    hits, value = values.get(measurement.metric, {}).get("hits"), measurement.of(values)
    if not isinstance(hits, str) or not hits or value is None:
        return ""
    return hits if math.isclose(hits.count("1") / len(hits), value, abs_tol=1e-6) else ""


def _is_chance(gained: int, lost: int) -> bool:
    """Say whether a fair coin would fall so unevenly, either way, in more than one of twenty cases."""
    tail = sum(math.comb(gained + lost, count) for count in range(min(gained, lost) + 1))
    return bool(2 * tail * ONE_IN > 1 << (gained + lost))


def closest(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial that is nearest to keeping all bounds, if any got so far as to have a number.

    One of which every bound is known goes before one that was left early or is only forecast.
    """
    known = [trial for trial in trials if trial.state != "failed" and trial.violations]

    def place(trial: Trial) -> tuple[bool, float, bool, int]:
        return None in trial.violations.values(), trial.distance, trial.state != "complete", trial.number

    return min(known, key=place, default=None)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the feasible trials that no other feasible one beats in every objective."""
    feasible = [trial for trial in trials if trial.feasible]
    return [trial for trial in feasible if not any(_beats(other, trial) for other in feasible)]


def ranked(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the trials, best first: the winner, the other feasible ones, the rest by distance, failures last."""
    winner, _ = best(trials, objectives)

    def place(trial: Trial) -> tuple[bool, bool, bool, float, tuple[float, ...], int]:
        losses = tuple(_loss(trial, number) for number in range(len(objectives)))
        return (
            trial is not winner, not trial.feasible, trial.state == "failed", trial.distance, losses, trial.number
        )  # fmt: skip

    return sorted(trials, key=place)


def _loss(trial: Trial, number: int) -> float:
    loss = trial.losses[number] if number < len(trial.losses) else None
    return math.inf if loss is None else loss


def _beats(one: Trial, other: Trial) -> bool:
    pairs = [(_loss(one, n), _loss(other, n)) for n in range(len(one.losses))]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
