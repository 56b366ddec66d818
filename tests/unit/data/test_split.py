from __future__ import annotations

import pytest

from picual.data.base import DataConfig
from picual.data.split import holdout_rows, train_rows


@pytest.mark.parametrize("count", [2, 3, 10, 867])
@pytest.mark.parametrize("holdout", [0.01, 0.3, 0.99])
def test_both_sides_get_rows_and_none_gets_the_others(count: int, holdout: float) -> None:
    rows = list(range(count))
    config = DataConfig(holdout=holdout)
    train, held = train_rows(rows, config), holdout_rows(rows, config)
    assert sorted(train + held) == rows
    assert train
    assert held
    assert abs(len(held) - count * holdout) <= 1
    assert (train, held) == (sorted(train), sorted(held)), "the order of the rows is kept"


def test_the_split_follows_the_seed_alone() -> None:
    rows = list(range(100))
    assert holdout_rows(rows, DataConfig(holdout=0.2)) == holdout_rows(rows, DataConfig(holdout=0.2))
    assert holdout_rows(rows, DataConfig(holdout=0.2)) != holdout_rows(rows, DataConfig(holdout=0.2, seed=1))
    # Written down once: another split would make old results and new ones incomparable without a word.
    assert holdout_rows(list(range(10)), DataConfig(holdout=0.3)) == [0, 1, 4]


def test_without_a_holdout_everything_is_trained_on() -> None:
    assert train_rows([1, 2], DataConfig()) == [1, 2]
    assert holdout_rows([1, 2], DataConfig()) == []
    assert train_rows([1], DataConfig(holdout=0.5)) == [1]
