from __future__ import annotations

from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.data.sequences import Sequence, sequences
from picual.errors import BadValue

ROWS = [{"a": "hello"}, {"a": "hi"}, {"a": "good morning"}]


def read(tokenizer: Any, made: list[Sequence]) -> list[str]:
    return [tokenizer.decode(one.input_ids) for one in made]


def learnt(tokenizer: Any, one: Sequence) -> str:
    """Return what is learnt, with `_` where nothing is."""
    pairs = zip(one.input_ids, one.labels, strict=True)
    assert all(label in {-100, token} for token, label in zip(one.input_ids, one.labels, strict=True))
    return "".join("_" if label == -100 else tokenizer.decode([token]) for token, label in pairs)


def test_line_by_line_cuts_each_row_and_counts_the_cuts(tokenizer: Any) -> None:
    made = sequences(ROWS, DataConfig(template="{a}!", max_length=6), tokenizer)
    assert read(tokenizer, made.sequences) == ["hello!", "hi!", "good m"]
    assert (made.truncation.count, made.truncation.longest) == (1, 13)
    assert [one.labels for one in made.sequences] == [one.input_ids for one in made.sequences]


def test_special_tokens_are_added_when_asked_for_and_never_twice(tokenizer: Any) -> None:
    rows = [{"a": "x"}, {"a": "x<|end|>"}]
    plain = sequences([{"a": "xy"}, {"a": "x<|end|>"}], DataConfig(text="a"), tokenizer)
    assert read(tokenizer, plain.sequences) == ["xy", "x<|end|>"]
    special = sequences(rows, DataConfig(text="a", add_special_tokens=True), tokenizer)
    assert read(tokenizer, special.sequences) == ["x<|end|>", "x<|end|>"]


def test_line_by_line_random_mixes_rows_and_takes_a_stretch_of_a_long_one(tokenizer: Any) -> None:
    rows = [{"a": f"{index:02d}"} for index in range(20)] + [{"a": "abcdefghijklmnopqrstuvwxyz"}]
    config = DataConfig(text="a", strategy="line-by-line-random", max_length=4)
    texts = read(tokenizer, sequences(rows, config, tokenizer).sequences)
    assert texts == read(tokenizer, sequences(rows, config, tokenizer).sequences), "the same seed, another result"
    others = read(tokenizer, sequences(rows, DataConfig(**{**config.to_wire(), "seed": 1}), tokenizer).sequences)
    assert sorted(text for text in texts if len(text) == 2) == [row["a"] for row in rows[:-1]]
    assert texts != others
    stretches = {next(text for text in found if len(text) == 4) for found in (texts, others)}
    assert stretches != {"abcd"}
    assert all(stretch in rows[-1]["a"] for stretch in stretches)


def test_join_puts_eos_between_rows_and_keeps_the_short_end(tokenizer: Any) -> None:
    made = sequences(ROWS, DataConfig(text="a", strategy="join", max_length=8), tokenizer).sequences
    assert "".join(read(tokenizer, made)) == "hello<|end|>hi<|end|>good morning"
    assert [len(one.input_ids) for one in made] == [8, 8, 5]


def test_join_does_not_put_a_second_eos_behind_one(tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join", max_length=64, add_special_tokens=True)
    assert read(tokenizer, sequences(ROWS, config, tokenizer).sequences) == [
        "hello<|end|>hi<|end|>good morning<|end|>"
    ]


@pytest.mark.parametrize(
    ("joiner", "whole"), [("", "hellohigood morning"), ("\n\n", "hello\n\nhi\n\ngood morning")]
)
def test_join_takes_the_joiner_it_is_given(joiner: str, whole: str, tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join", max_length=64, joiner=joiner)
    assert read(tokenizer, sequences(ROWS, config, tokenizer).sequences) == [whole]


def test_drop_short_leaves_the_end_out_and_says_so_when_nothing_is_left(tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join", max_length=8, drop_short=True)
    made = sequences(ROWS, config, tokenizer)
    assert [len(one.input_ids) for one in made.sequences] == [8, 8]
    assert made.short == 1
    with pytest.raises(BadValue, match="no sequence is 99 tokens long") as caught:
        sequences(ROWS, DataConfig(**{**config.to_wire(), "max_length": 99}), tokenizer)
    assert caught.value.hint == "max_length: 21"


def test_join_random_takes_as_many_pieces_from_random_places(tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join-random", max_length=8, joiner="")
    pieces = read(tokenizer, sequences(ROWS, config, tokenizer).sequences)
    assert len(pieces) == 3
    assert all(len(piece) == 8 and piece in "hellohigood morning" for piece in pieces)
    assert pieces != ["hellohig", "ood morn", "ing"]
    assert pieces == read(tokenizer, sequences(ROWS, config, tokenizer).sequences)


def test_a_sliding_window_learns_every_token_once(tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join-sliding-window", max_length=8, stride=5, joiner="")
    made = sequences(ROWS, config, tokenizer).sequences
    assert [learnt(tokenizer, one) for one in made] == ["hellohig", "___ood m", "___ornin", "___g"]
    assert read(tokenizer, made) == ["hellohig", "higood m", "d mornin", "ning"]


def test_a_stride_that_would_leave_tokens_out_is_refused(tokenizer: Any) -> None:
    config = DataConfig(text="a", strategy="join-sliding-window", max_length=8, stride=9)
    with pytest.raises(BadValue, match="`stride` is 9, longer than `max_length` 8"):
        sequences(ROWS, config, tokenizer)


PAIR = DataConfig(prompt="{q}>", response="{a}", max_length=64)


def test_a_pair_learns_the_response_and_its_end_alone(tokenizer: Any) -> None:
    rows = [{"q": "2+2", "a": "4"}, {"q": "x", "a": "y<|end|>"}]
    made = sequences(rows, PAIR, tokenizer).sequences
    assert [learnt(tokenizer, one) for one in made] == ["____4<|end|>", "__y<|end|>"]
    whole = sequences(rows, DataConfig(**{**PAIR.to_wire(), "mask_prompt": False}), tokenizer).sequences
    assert learnt(tokenizer, whole[0]) == "2+2>4<|end|>"


def test_a_long_prompt_gives_way_at_its_beginning(tokenizer: Any) -> None:
    rows = [{"q": "abcdefghij", "a": "12345"}]
    short = sequences(rows, DataConfig(**{**PAIR.to_wire(), "prompt_max_length": 4}), tokenizer)
    assert read(tokenizer, short.sequences) == ["hij>12345<|end|>"]
    assert (short.truncation.count, short.truncation.longest) == (1, 17)
    tight = sequences(rows, DataConfig(**{**PAIR.to_wire(), "max_length": 8}), tokenizer)
    assert read(tokenizer, tight.sequences) == ["hij>1234"]
    roomy = sequences(rows, DataConfig(**{**PAIR.to_wire(), "max_length": 14}), tokenizer)
    assert read(tokenizer, roomy.sequences) == ["defghij>12345<|end|>"]


def test_a_chat_learns_what_the_assistant_says(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "B"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "D"},
    ]  # fmt: skip
    made = sequences([{"m": messages}], DataConfig(chat="m"), tokenizer).sequences
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert read(tokenizer, made) == [text]
    said = learnt(tokenizer, made[0])
    assert said.replace("_", "") == "B<|end|>\nD<|end|>\n"
    assert len(said.replace("<|end|>", "E").replace("_", "")) == sum(label != -100 for label in made[0].labels)


def test_a_template_that_shows_earlier_turns_differently_still_teaches_the_last(tokenizer: Any) -> None:
    import copy

    changing = copy.deepcopy(tokenizer)
    changing.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'U' + m['content'] }}{% else %}"
        "{{ 'A' + ('think ' if loop.last else '') + m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A' }}{% endif %}"
    )
    messages = [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"}, {"role": "assistant", "content": "4"},
    ]  # fmt: skip
    made = sequences([{"m": messages}], DataConfig(chat="m"), changing).sequences
    assert read(changing, made) == ["U1A2U3Athink 4"]
    assert learnt(changing, made[0]).endswith("think 4")
    assert "1" not in learnt(changing, made[0])


@pytest.mark.parametrize(
    ("rows", "config", "what"),
    [
        ([], DataConfig(text="a"), "the data has no rows"),
        ([{"a": "x"}, {"b": "y"}], DataConfig(text="a"), "row 2 of the data has no column `a`"),
        ([{"a": "xy"}, {"a": None}], DataConfig(template="{a}"), "row 2 of the data has null in column `a`"),
        ([{"a": "x", "q": "y"}], DataConfig(prompt="{q}", response="{z}"), "row 1 of the data has no column `z`"),
        ([{"m": "no list"}], DataConfig(chat="m"), "row 1 of the data has no messages in column `m`"),
        ([{"m": [{"role": "user", "content": "x"}]}], DataConfig(chat="m"), "every label is masked"),
        ([{"a": "x"}], DataConfig(text="a"), "every label is masked"),  # one token is predicted by nothing
    ],
)
def test_data_that_teaches_nothing_is_refused(
    rows: list[dict[str, Any]], config: DataConfig, what: str, tokenizer: Any
) -> None:
    with pytest.raises(BadValue, match="data") as caught:
        sequences(rows, config, tokenizer)
    assert what in caught.value.what
    assert caught.value.hint
