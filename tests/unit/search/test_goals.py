"""Bounds as written, and what they mean."""

from __future__ import annotations

import math

import pytest

from picual.errors import BadValue
from picual.search.goals import Bound, Measurement, Objective, contradictions

SIZE = Measurement("size", "size_mb")
SCORE = Measurement("score", "score")


@pytest.mark.parametrize(
    ("text", "own", "limit"),
    [
        ("<= 110MB", "MB", 110),
        ("<= 0.11 GB", "MB", 110),
        (">= 85%", "", 0.85),
        (">= -2.5e-1", "", -0.25),
        ("<= 300ms", "ms", 300),
        ("<= 2s", "ms", 2000),
        ("<= 2s", "s", 2),
        ("<= 2ms", "s", 0.002),
        ("<= 0.1 nats", "nat", 0.1),
        (">= 30 tokens/s", "tokens/s", 30),
        (">= 2x", "x", 2),
        ("<= baseline", "", -40),
        (">= 0.5 * baseline", "", -20),
        (">= 50% * unquantized", "", 5),
        ("<= unquantized + 3", "MB", 13),
        ("<= unquantized - 3MB", "MB", 7),
        ("<= unquantized - 20%", "MB", 8),
        (">= baseline - 5%", "", -42),
        (">= baseline + 5%", "", -38),
    ],
)
def test_a_bound_is_the_number_it_says(text: str, own: str, limit: float) -> None:
    references = {"baseline": {"score": {"score": -40.0}}, "unquantized": {"score": {"score": 10.0}}}

    assert Bound.read(SCORE, text).converted(own).limit(references) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "110", "< 3", "<= ", "= 3", "<= base", ">= 2 * 3", "<= nan"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="is no bound"):
        Bound.read(SCORE, text)


@pytest.mark.parametrize(("text", "own", "hint"), [
    ("<= 3 bananas", "", "<= 3"), ("<= 110MB", "ms", "<= 110ms"), ("<= 85%", "MB", "<= 85MB"),
    (">= 0.99x", "", ">= 0.99 * unquantized"), ("<= 5ms", "", "<= 5"),
])  # fmt: skip
def test_a_unit_of_another_kind_is_refused(text: str, own: str, hint: str) -> None:
    with pytest.raises(BadValue, match="is in") as caught:
        Bound.read(SCORE, text).converted(own)

    assert caught.value.hint == f"`{hint}`"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True, "3"])
def test_a_number_that_is_not_one_breaks_every_bound(value: object) -> None:
    bound = Bound.read(SCORE, ">= 0")

    assert bound.violation({"score": {"score": value}}, {}) == math.inf
    assert Objective(SCORE, "maximize").loss({"score": {"score": value}}) is None


def test_a_bound_relative_to_what_was_not_measured_is_broken() -> None:
    bound = Bound.read(SCORE, ">= 0.9 * baseline")

    assert bound.violation({"score": {"score": 1.0}}, {"unquantized": {"score": {"score": 1.0}}}) == math.inf


@pytest.mark.parametrize(("text", "reference", "nothing"), [
    (">= 0.99 * unquantized", 0.0, True), (">= unquantized", 0.0, True), (">= 0.99 * unquantized", 0.5, False),
    (">= unquantized - 0.1", 0.0, False), (">= baseline", 0.0, False), (">= 0.85", 0.0, False),
    ("<= 1.1 * unquantized", 0.0, False),
])  # fmt: skip
def test_a_share_of_zero_asks_nothing(text: str, reference: float, nothing: bool) -> None:
    bound = Bound.read(Measurement("accuracy", "accuracy"), text)

    values = {"accuracy": {"accuracy": reference}}

    assert bound.asks_nothing({"unquantized": values, "baseline": values}) is nothing


def test_a_violation_is_a_share_of_the_limit() -> None:
    values = {"size": {"size_mb": 121.0}}

    assert Bound.read(SIZE, "<= 110MB").violation(values, {}) == pytest.approx(0.1)
    assert Bound.read(SIZE, ">= 110MB").violation(values, {}) == pytest.approx(-0.1)


@pytest.mark.parametrize(("low", "out"), [(0.11, True), (0.09, False)])
def test_only_a_spread_that_lies_beyond_the_limit_rules_out(low: float, out: bool) -> None:
    bound = Bound.read(Measurement("divergence", "kl"), "<= 0.1")
    values = {"divergence": {"kl": 0.2, "spread": {"kl": [low, 0.3]}}}

    assert bound.is_out_of_reach(values, {}) is out


def test_limits_contradict_each_other_only_for_one_number_and_one_reference() -> None:
    low, high = Bound.read(SIZE, ">= 120"), Bound.read(SIZE, "<= 110MB")

    assert contradictions((low, high)) == [(low, high)]
    assert not contradictions((low, Bound.read(SCORE, "<= 110")))
    assert not contradictions((low, Bound.read(SIZE, "<= 0.5 * baseline")))
