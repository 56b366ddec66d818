from __future__ import annotations

import pytest

from picual.models.answers import Pieces, batches, common_prefix, cut, equal_lengths


def test_an_answer_ends_before_the_first_stop_text_whichever_it_is() -> None:
    assert cut("joy\nand more.", [".", "\n"]) == "joy"
    assert cut("joy", ["\n"]) == "joy"


@pytest.mark.parametrize(
    ("rows", "shared"), [([[1, 2, 3], [1, 2, 4], [1, 2]], 2), ([[5], [6]], 0), ([[1, 2]], 2), ([], 0)]
)
def test_the_common_beginning_is_what_every_row_has(rows: list[list[int]], shared: int) -> None:
    assert common_prefix(rows) == shared


def test_batches_hold_every_row_once_within_both_bounds_and_pad_little() -> None:
    lengths = [3, 50, 4, 49, 3, 200, 5]

    groups = list(batches(lengths, most=3, tokens=120))

    assert sorted(index for group in groups for index in group) == list(range(7))
    assert all(len(group) <= 3 for group in groups)
    # The row of 200 tokens is over the bound by itself: it goes alone.
    assert all(len(group) * max(lengths[index] for index in group) <= 120 or len(group) == 1 for group in groups)
    assert [[lengths[index] for index in group] for group in groups] == [[3, 3, 4], [5], [49, 50], [200]]


def test_groups_of_equal_length_are_never_padded() -> None:
    lengths = [3, 5, 3, 3, 5, 9000]

    groups = list(equal_lengths(lengths, most=2, tokens=4096))

    assert groups == [[0, 2], [3], [1, 4], [5]]


def test_a_character_of_several_tokens_comes_out_whole() -> None:
    def decode(ids: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")  # type: ignore[call-overload]  # one token a byte

    pieces = Pieces(decode)
    given = [pieces.add(byte) for byte in "né 🎉!".encode()]

    assert given == ["n", "", "é", " ", "", "", "", "🎉", "!"]
    assert pieces.rest() == ""


def test_half_a_character_at_the_very_end_is_not_swallowed() -> None:
    pieces = Pieces(lambda ids: bytes(ids).decode("utf-8", errors="replace"))

    assert [pieces.add(byte) for byte in b"a\xc3"] == ["a", ""]
    assert pieces.rest() == "\ufffd"
