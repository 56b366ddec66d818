from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue
from picual.metrics.bag_of_words import BagOfWords
from picual.metrics.base import MetricContext
from picual.models import Model

Written = Callable[[list[dict[str, Any]]], str]
FOODS, BEASTS = ["bread", "cheese", "soup", "rice"], ["wolf", "bear", "lynx", "boar"]


def rows(count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        words, kind = (FOODS, "food") if number % 2 else (BEASTS, "beast")
        made.append({"phrase": f"{words[number // 2 % 4]} and {words[number // 3 % 4]}", "kind": kind})
    return made


def measured(config: DataConfig, **fields: Any) -> dict[str, Any]:
    return BagOfWords(train="d", **fields).measure(Model(Path()), MetricContext(data={"d": config}))


def test_counting_words_tells_classes_with_their_own_words_apart(written: Written) -> None:
    config = DataConfig(files=(written(rows(40)),), template="{phrase}: {kind}", holdout=0.25)

    values = measured(config)

    assert (values["accuracy"], values["count"], values["train_count"]) == (1.0, 10, 30)
    assert set(values["per_class"]) == {"food", "beast"}


def test_it_is_trained_on_the_training_rows_alone(written: Written, tmp_path: Path) -> None:
    # Scored rows say the opposite of the training rows: whoever had trained on them would not be all wrong.
    config = DataConfig(files=(written(rows(40)),), template="{phrase}: {kind}")
    turned = [{**row, "kind": "food" if row["kind"] == "beast" else "beast"} for row in rows(12)]
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "rows.jsonl"
    other.write_text("".join(f'{{"phrase": "{row["phrase"]}", "kind": "{row["kind"]}"}}\n' for row in turned))
    data = {"d": config, "turned": DataConfig(files=(str(other),))}

    values = BagOfWords(train="d", test="turned").measure(Model(Path()), MetricContext(data=data))

    assert (values["accuracy"], values["count"]) == (0.0, 12)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"template": "{phrase}: {kind}"}, {}, "rows to train on and others to score"),
        ({"text": "phrase", "holdout": 0.5}, {}, "needs `text` and `label`"),
        ({"text": "phrase", "holdout": 0.5}, {"text": "phrase", "label": "kin"}, "no column `kin`"),
    ],
)
def test_what_is_missing_is_said(
    written: Written, options: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadValue, match=message):
        measured(DataConfig(files=(written(rows(8)),), **options), **fields)
    with pytest.raises(BadValue, match="needs `train`"):
        BagOfWords().measure(Model(Path()), MetricContext())
