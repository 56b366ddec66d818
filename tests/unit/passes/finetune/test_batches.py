from __future__ import annotations

import pytest

from picual.data.sequences import Sequence
from picual.passes.finetune.batches import Arrangement, Order, collate

LENGTHS = [(7 * index) % 40 + 1 for index in range(103)]


def order(arrangement: Arrangement, *, seed: int = 0, epoch: int = 0) -> list[int]:
    made = Order(LENGTHS, batch=4, seed=seed, arrangement=arrangement)
    made.set_epoch(epoch)
    return list(made)


@pytest.mark.parametrize("arrangement", ["random", "group_by_length", "sequential"])
def test_an_epoch_has_every_row_once(arrangement: Arrangement) -> None:
    assert sorted(order(arrangement)) == list(range(103))
    assert len(Order(LENGTHS, batch=4, seed=0, arrangement=arrangement)) == 103


@pytest.mark.parametrize("arrangement", ["random", "group_by_length"])
def test_the_order_follows_seed_and_epoch_alone(arrangement: Arrangement) -> None:
    assert order(arrangement, epoch=2) == order(arrangement, epoch=2)
    assert order(arrangement, epoch=2) != order(arrangement, epoch=1)
    assert order(arrangement, seed=1) != order(arrangement)


def test_rows_of_like_length_come_together_and_steps_still_come_mixed() -> None:
    rows = order("group_by_length")
    steps = [[LENGTHS[index] for index in rows[at : at + 4]] for at in range(0, len(rows), 4)]
    assert max(max(step) - min(step) for step in steps) <= 3
    assert max(steps[0]) == max(LENGTHS), "the longest comes first"
    assert len(steps[-1]) == 3, "the short step comes last"
    means = [sum(step) for step in steps]
    assert means != sorted(means, reverse=True)


def test_few_rows_make_one_short_step() -> None:
    assert sorted(Order([3, 1], batch=4, seed=0, arrangement="group_by_length")) == [0, 1]


def batch(*lengths: int, pad_to: int | None = None, attention_mask: bool = True) -> dict[str, object]:
    rows = [Sequence(list(range(1, n + 1)), [-100, *range(2, n + 1)]) for n in lengths]
    made = collate(rows, pad_id=9, pad_to=pad_to, attention_mask=attention_mask)
    return {name: tensor.tolist() for name, tensor in made.items()}


def test_rows_are_padded_to_the_longest_of_their_batch_on_the_right() -> None:
    assert batch(2, 3) == {
        "input_ids": [[1, 2, 9], [1, 2, 3]],
        "labels": [[-100, 2, -100], [-100, 2, 3]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "tokens": 5,
        "rows": [-1, -1],
    }


def test_without_padding_or_by_wish_there_is_no_mask() -> None:
    assert "attention_mask" not in batch(3, 3)
    assert "attention_mask" not in batch(2, 3, attention_mask=False)


def test_rows_are_padded_further_when_asked_for() -> None:
    made = batch(2, 3, pad_to=5)
    assert made["input_ids"] == [[1, 2, 9, 9, 9], [1, 2, 3, 9, 9]]
    assert made["tokens"] == 5
