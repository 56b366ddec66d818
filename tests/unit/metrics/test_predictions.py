from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.metrics.predictions import Question, first_class, judged, same, write


@pytest.mark.parametrize(
    ("answer", "expected", "equal"),
    [
        ("Joy.", "joy", True), (" 'JOY' ", "joy", True), ("joyful", "joy", False), ("", "joy", False),
        ("?", "!", False), ("!", "!", True), ("", "!", False), ("+", "-", False),
    ],
)  # fmt: skip
def test_case_blanks_and_punctuation_around_an_answer_do_not_count(
    answer: str, expected: str, equal: bool
) -> None:
    assert same(answer, expected) is equal


def test_by_class_the_first_class_named_as_a_word_counts() -> None:
    classes = ["joy", "sadness", "joy and fear"]

    assert first_class("The tone is Sadness, not joy.", classes) == "sadness"
    assert first_class("joyful", classes) == ""
    assert first_class("It is joy and fear.", classes) == "joy and fear"
    assert first_class("anything", [""]) == ""


def test_an_answer_counts_as_the_class_it_names_spelled_as_in_the_data() -> None:
    questions = [Question("a", "Joy"), Question("b", "sadness"), Question("c", "Joy"), Question("d", "joy")]
    answers = ["It is joy.", "joy!", "none of them", "JOY"]

    exact = judged(questions, answers, ["Joy", "sadness"])
    loose = judged(questions, answers, ["Joy", "sadness"], "class")

    assert [one.taken for one in exact] == ["", "Joy", "", "joy"]
    assert [one.right for one in exact] == [False, False, False, True]
    assert [one.taken for one in loose] == ["Joy", "Joy", "", "joy"]
    assert [one.right for one in loose] == [True, False, False, True]


def test_predictions_are_kept_a_line_a_row_where_there_is_a_folder(tmp_path: Path) -> None:
    found = judged([Question("a\n", "ü")], ["Ü."], ["ü"])

    write(found, tmp_path / "out")
    write(found, None)

    (line,) = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"prompt": "a\n", "expected": "ü", "answer": "Ü.", "taken": "ü", "right": True}
