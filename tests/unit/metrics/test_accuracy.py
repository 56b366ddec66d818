from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue, UnknownName
from picual.metrics.accuracy import Accuracy
from picual.metrics.asking import at_token_border, drawn
from picual.metrics.base import MetricContext
from picual.models import GenaiModel, HfModel
from picual.models.hf_session import HfSession
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


