from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue, UnknownName
from picual.metrics.accuracy import Accuracy
from picual.metrics.asking import at_token_border, drawn, without_end_marks
from picual.metrics.base import MetricContext
from picual.metrics.labels import likeliest, overlap, split, ties
from picual.metrics.predictions import Question
from picual.models import GenaiModel, HfModel
from picual.models.hf_session import HfSession
from picual.models.likelihood import Likelihood
from picual.testing.tiny import tiny_model

Written = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def context(tones: dict[str, str], tone_template: str, written: Written) -> MetricContext:
    file = written([{"phrase": phrase, "tone": tone} for phrase, tone in tones.items()])
    return MetricContext(data={"tone": DataConfig(files=(file,), template=tone_template)}, threads=1)


def test_a_model_that_knows_every_row_has_accuracy_one(taught: HfModel, context: MetricContext) -> None:
    values = Accuracy(data="tone", expect="{tone}").measure(taught, context)

    assert (values["accuracy"], values["correct"], values["count"]) == (1.0, 8, 8)
    assert set(values["per_class"]) == {"fear", "joy", "sadness", "surprise"}
    assert values["confusion"]["counts"] == [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]
    assert (values["macro_f1"], values["hits"]) == (1.0, "1" * 8)
    assert values["examples"] == []


def test_the_exported_model_has_it_too(taught_genai: GenaiModel, context: MetricContext) -> None:
    assert Accuracy(data="tone", expect="{tone}").measure(taught_genai, context)["accuracy"] == 1.0


def test_an_untrained_model_does_not_and_its_wrong_answers_are_shown(
    tmp_path: Any, context: MetricContext, tones: dict[str, str]
) -> None:
    values = Accuracy(data="tone", expect="{tone}").measure(tiny_model(tmp_path / "m"), context)

    assert values["accuracy"] < 0.5
    assert len(values["examples"]) == 5
    assert values["examples"][0]["expected"] == next(iter(tones.values()))
    assert values["examples"][0]["prompt"].endswith("<|assistant|>\n")


def test_one_wrong_label_costs_one_row_and_names_it(
    taught: HfModel, tones: dict[str, str], tone_template: str, written: Written
) -> None:
    rows = [{"phrase": phrase, "tone": tone} for phrase, tone in tones.items()]
    rows[2]["tone"] = "joy"
    data = {"tone": DataConfig(files=(written(rows),), template=tone_template)}

    values = Accuracy(data="tone", expect="{tone}").measure(taught, MetricContext(data=data))

    assert values["accuracy"] == 7 / 8
    assert values["per_class"]["joy"]["recall"] == 2 / 3
    assert values["hits"] == "11011111"
    (example,) = values["examples"]
    assert (example["expected"], example["answer"]) == ("joy", "fear")


def test_prompt_and_response_of_the_data_need_no_expect(
    taught: HfModel, tones: dict[str, str], written: Written
) -> None:
    config = DataConfig(
        files=(written([{"p": phrase, "t": tone.upper()} for phrase, tone in tones.items()]),),
        prompt="<|user|>\n{p}<|end|>\n<|assistant|>\n",
        response="{t}",
    )

    values = Accuracy(data="d").measure(taught, MetricContext(data={"d": config}))

    assert values["accuracy"] == 1.0  # case does not count


def test_messages_and_chat_prompts_go_through_the_models_template(
    taught: HfModel, tones: dict[str, str], written: Written
) -> None:
    rows = [
        {"phrase": phrase, "tone": tone, "messages": [
            {"role": "user", "content": phrase}, {"role": "assistant", "content": tone},
        ]}
        for phrase, tone in tones.items()
    ]  # fmt: skip
    context = MetricContext(data={"d": DataConfig(files=(written(rows),), chat="messages")})

    assert Accuracy(data="d").measure(taught, context)["accuracy"] == 1.0
    asked = Accuracy(data="d", prompt="{phrase}", expect="{tone}", chat=True)
    assert asked.measure(taught, context)["accuracy"] == 1.0
    begun = Accuracy(data="d", prompt="{phrase}", expect="{tone}", chat=True, begin="jo", match="class")
    assert begun.measure(taught, context)["accuracy"] < 1.0  # `y` is all that is left to say of `joy`


def test_only_the_asked_rows_are_asked(taught: HfModel, context: MetricContext) -> None:
    halved = MetricContext(data={"tone": DataConfig(**{**context.data["tone"].to_wire(), "holdout": 0.25})})

    def counted(split: Any, within: MetricContext, **fields: Any) -> int:
        count = Accuracy(data="tone", expect="{tone}", split=split, **fields).measure(taught, within)["count"]
        assert isinstance(count, int)
        return count

    assert [counted(split, halved) for split in ("holdout", "train", "all")] == [2, 6, 8]
    assert counted("holdout", context) == 8  # nothing is held out, so all of it
    assert counted("all", context, max_samples=3) == 3


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, BadValue, "needs `data`"),
        ({"data": "tome"}, UnknownName, "unknown data `tome`"),
        ({"data": "tone"}, BadValue, "does not know the expected answer"),
        ({"data": "tone", "expect": "{mood}"}, BadValue, "no `{mood}` in the template"),
        ({"data": "tone", "expect": "{mood}", "prompt": "{phrase}"}, BadValue, "no column `mood`"),
        ({"data": "tone", "expect": "{tone}", "prompt": "{phrse}"}, BadValue, "no column `phrse`"),
    ],
)
def test_what_is_missing_is_said(
    taught: HfModel, context: MetricContext, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Accuracy(**fields).measure(taught, context)


def test_a_blank_before_the_answer_is_left_to_the_model_when_its_token_holds_it(taught: HfModel) -> None:
    class Joined:
        """Reads ` joy` as one token, as most tokenizers do."""

        def encode(self, text: str) -> list[str]:
            return text.replace(" ", "| ").split("|")

    joined: Any = Joined()
    assert at_token_border("Tone: ", "joy", joined) == "Tone:"
    assert at_token_border("Tone:", "joy", joined) == "Tone:"
    with contextlib.closing(HfSession(taught, threads=1)) as session:  # one token a byte: the blank stands alone
        assert at_token_border("Tone: ", "joy", session) == "Tone: "


@pytest.mark.parametrize("kind", ["taught", "taught_genai"])
def test_by_likelihood_the_likeliest_class_is_the_answer(
    kind: str, request: pytest.FixtureRequest, context: MetricContext, tmp_path: Any, tones: dict[str, str]
) -> None:
    context.folder = tmp_path / "out"

    values = Accuracy(data="tone", expect="{tone}", by="likelihood").measure(
        request.getfixturevalue(kind), context
    )

    assert (values["accuracy"], values["macro_f1"], values["ties"]) == (1.0, 1.0, 0)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["taken"] for line in lines] == list(tones.values())
    assert all(max(line["scores"], key=line["scores"].get) == line["taken"] for line in lines)
    assert {len(line["scores"]) for line in lines} == {4}


@pytest.mark.parametrize("by", ["generation", "likelihood"])
def test_the_numbers_are_scikit_learns_on_the_kept_predictions(
    by: Any, taught: HfModel, tones: dict[str, str], tone_template: str, written: Written, tmp_path: Any
) -> None:
    from sklearn import metrics

    rows = [{"phrase": phrase, "tone": tone} for phrase, tone in tones.items()]
    for row in rows[:3]:
        row["tone"] = "joy"
    rows += [{"phrase": "some words it never saw", "tone": "fear"}] * 2
    data = {"tone": DataConfig(files=(written(rows),), template=tone_template)}

    values = Accuracy(data="tone", expect="{tone}", by=by).measure(
        taught, MetricContext(data=data, folder=tmp_path)
    )

    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    expected, taken = [line["expected"] for line in lines], [line["taken"] for line in lines]
    labels = values["confusion"]["labels"]
    assert 0 < values["accuracy"] < 1
    assert values["accuracy"] == metrics.accuracy_score(expected, taken)
    assert values["macro_f1"] == pytest.approx(
        metrics.f1_score(expected, taken, labels=labels, average="macro", zero_division=0)
    )
    columns = labels if all(taken) else [*labels, ""]
    table = metrics.confusion_matrix(expected, taken, labels=columns)[: len(labels)]
    assert values["confusion"]["counts"] == table.tolist()


@pytest.mark.parametrize(
    ("labels", "message", "hint"),
    [
        (("joy", "fear", "sadness", "suprise"), "row 4 of `tone` expects `surprise`", "`suprise`"),
        (("joy", "fear", "sadness", "surprise", "anger"), "no row of `tone` expects the label `anger`", "`fear`"),
        (("joy",), "two different labels", "fear, joy"),
    ],
)
@pytest.mark.parametrize("by", ["generation", "likelihood"])
def test_labels_and_rows_must_fit(
    taught: HfModel, context: MetricContext, by: Any, labels: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(BadValue, match=message) as caught:
        Accuracy(data="tone", expect="{tone}", by=by, labels=labels).measure(taught, context)
    assert hint in caught.value.hint


def test_open_answers_have_no_likelihood(taught: HfModel, written: Written) -> None:
    rows = [{"q": str(number), "a": f"answer {number}"} for number in range(60)]
    data = {"d": DataConfig(files=(written(rows),), prompt="{q}?", response="{a}")}

    with pytest.raises(BadValue, match="expect 60 answers"):
        Accuracy(data="d", by="likelihood").measure(taught, MetricContext(data=data))


def test_labels_are_named_without_the_blank_before_the_response(
    taught: HfModel, tones: dict[str, str], written: Written
) -> None:
    config = DataConfig(
        files=(written([{"p": phrase, "t": tone} for phrase, tone in tones.items()]),),
        prompt="<|user|>\n{p}<|end|>\n<|assistant|>", response="\n{t}<|end|>",
    )  # fmt: skip
    metric = Accuracy(data="d", by="likelihood", expect="{t}", labels=("surprise", "joy", "fear", "sadness"))

    values = metric.measure(taught, MetricContext(data={"d": config}))

    assert values["accuracy"] == 1.0
    assert values["confusion"]["labels"] == ["surprise", "joy", "fear", "sadness"]
    spaced = DataConfig(**{**config.to_wire(), "response": " {t}<|end|>"})
    plain = Accuracy(data="d", by="likelihood", labels=metric.labels)
    assert plain.measure(taught, MetricContext(data={"d": spaced}))["count"] == 8


class Words:
    """A session whose tokens are words with the blank before them, as in most tokenizers; it likes short ones."""

    def encode(self, text: str) -> list[int]:
        pieces = text.replace(" ", "| ").split("|")
        return [sum(ord(letter) * 7**place for place, letter in enumerate(piece)) for piece in pieces if piece]

    def decode(self, ids: Any) -> str:
        return "some text"

    def likelihoods(self, rows: Any) -> list[Likelihood]:
        return [Likelihood(-float(len(text)), greedy=False) for _, text in rows]


def test_prompt_and_labels_are_split_where_the_first_label_changes_a_token() -> None:
    words: Any = Words()

    rows = split(words, "Tone: ", ["deep joy", "deep sadness"])

    assert rows == [
        (words.encode("Tone:"), words.encode(" deep joy")),
        (words.encode("Tone:"), words.encode(" deep sadness")),
    ]
    assert split(words, "Tone: ", ["joy", "fear"])[0] == (words.encode("Tone:"), words.encode(" joy"))


def test_of_labels_equally_likely_the_first_is_taken_and_ties_are_counted() -> None:
    words: Any = Words()
    asked = [Question("Tone: ", "fear"), Question("Tone: ", "joy")]

    found = likeliest(words, asked, ["joy", "fear"], before=["", ""], after="", where="")

    assert [one.taken for one in found] == ["joy", "joy"]
    assert [one.right for one in found] == [False, True]
    assert ties(found) == 2
    assert overlap(["joy", "joy and fear"])
    assert not overlap(["joy", "fear"])


@pytest.mark.parametrize(
    ("config", "fields", "expected"),
    [
        ({"template": "{p}: {t}!{p}"}, {"expect": "{t}"}, ("", "!")),
        ({"prompt": "{p}:", "response": " {t}<|end|>"}, {"expect": "{t}"}, (" ", "<|end|>")),
        ({"prompt": "{p}:", "response": " {t}"}, {}, (" ", "")),
        ({"prompt": "{p}:", "response": " {t}</s>"}, {}, (" ", "</s>")),
        ({"template": "{p}: {t}"}, {"expect": "{t}", "prompt": "{p} ->"}, (None, "")),
    ],
)
def test_what_stands_around_a_label_is_taken_from_the_data(
    config: dict[str, Any], fields: dict[str, Any], expected: tuple[str | None, str]
) -> None:
    metric = Accuracy(data="d", by="likelihood", **fields)

    assert metric._around(DataConfig(**config)) == expected


def test_a_part_of_the_rows_is_drawn_from_all_of_them_and_never_less_than_twenty() -> None:
    rows = [{"n": number} for number in range(400)]

    part = drawn(rows, 0.25, seed=3)

    assert len(part) == 100
    assert part == sorted(part, key=lambda row: row["n"])
    assert 100 < sum(row["n"] for row in part) / 100 < 300  # from both ends
    assert part == drawn(rows, 0.25, seed=3) != drawn(rows, 0.25, seed=4)
    assert (len(drawn(rows[:40], 0.25, seed=3)), len(drawn(rows[:10], 0.25, seed=3))) == (20, 10)
    probe = Accuracy(data="d").probe()
    assert probe is not None
    assert (probe.part, probe.probe()) == (0.25, None)
    with pytest.raises(BadValue, match="`part` is 0"):
        Accuracy(part=0)


def test_the_prompt_whose_labels_have_no_finite_likelihood_is_named(
    taught: HfModel, context: MetricContext, monkeypatch: pytest.MonkeyPatch, tones: dict[str, str]
) -> None:
    from picual.errors import StepFailed

    plain = HfSession.likelihoods

    def broken(self: HfSession, rows: Any) -> list[Likelihood]:
        found = plain(self, rows)
        found[9] = Likelihood(float("nan"), greedy=False)  # of the third row, which has four labels
        return found

    monkeypatch.setattr(HfSession, "likelihoods", broken)
    with pytest.raises(StepFailed, match=rf"{list(tones)[2]}.*are not finite"):
        Accuracy(data="tone", expect="{tone}", by="likelihood").measure(taught, context)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (" {tone}<|im_end|>", " {tone}"),
        ("{tone}<|end|></s>\n", "{tone}"),
        ("It is {tone}.", "It is {tone}."),
        ("<b>{tone}</b> and more", "<b>{tone}</b> and more"),
        (None, None),
    ],
)
def test_the_special_tokens_that_end_a_response_are_no_part_of_the_answer(
    response: str | None, expected: str | None
) -> None:
    assert without_end_marks(response) == expected
