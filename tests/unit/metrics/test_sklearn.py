from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn import metrics

from picual.data.base import DataConfig
from picual.errors import BadValue
from picual.metrics import registry, sklearn_names
from picual.metrics.base import MetricContext
from picual.metrics.sklearn import Sklearn
from picual.models import HfModel

Written = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def context(tones: dict[str, str], tone_template: str, written: Written, tmp_path: Path) -> MetricContext:
    """Three of eight rows with another tone than the model has learnt, and two phrases that it never saw."""
    rows = [{"phrase": phrase, "tone": tone} for phrase, tone in tones.items()]
    rows[1]["tone"], rows[2]["tone"], rows[3]["tone"] = "joy", "joy", "fear"
    rows += [{"phrase": "some words it never saw", "tone": "fear"}, {"phrase": "others", "tone": "joy"}]
    data = {"tone": DataConfig(files=(written(rows),), template=tone_template)}
    return MetricContext(data=data, folder=tmp_path / "out")


def kept(context: MetricContext) -> list[dict[str, Any]]:
    assert context.folder is not None
    return [json.loads(line) for line in (context.folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("f1_score", {"average": "weighted"}),
        ("precision_score", {"average": "micro"}),
        ("matthews_corrcoef", {}),
        ("cohen_kappa_score", {"weights": None}),
        ("zero_one_loss", {}),
        ("rand_score", {}),
    ],
)
def test_the_score_is_scikit_learns_on_the_kept_predictions(
    taught: HfModel, context: MetricContext, metric: str, options: dict[str, Any]
) -> None:
    asked = Sklearn(data="tone", expect="{tone}", metric=metric, options=options, by="likelihood")

    values = asked.measure(taught, context)

    lines = kept(context)
    expected, taken = [line["expected"] for line in lines], [line["taken"] for line in lines]
    assert values["score"] == pytest.approx(getattr(metrics, metric)(expected, taken, **options))
    assert 0 < values["score"] < 1
    low, high = values["intervals"]["score"]
    assert low < values["score"] < high


def test_macro_f1_is_the_one_of_accuracy(taught: HfModel, context: MetricContext) -> None:
    fields: dict[str, Any] = {"data": "tone", "expect": "{tone}"}
    macro = {"average": "macro"}

    score = registry.build("sklearn", {**fields, "metric": "f1_score", "options": macro}).measure(taught, context)
    accuracy = registry.build("accuracy", fields).measure(taught, context)

    assert "" in {line["taken"] for line in kept(context)}  # what names no class costs its row, and is no class
    assert score["score"] == pytest.approx(accuracy["macro_f1"], abs=1e-12)


def test_probabilities_are_those_of_the_classes(taught: HfModel, context: MetricContext) -> None:
    asked = Sklearn(data="tone", expect="{tone}", metric="log_loss", by="likelihood")

    values = asked.measure(taught, context)

    import numpy as np

    lines = kept(context)
    logs = np.array([[line["scores"][name] for name in sorted(line["scores"])] for line in lines])
    names = sorted(lines[0]["scores"])
    chosen = [row[names.index(line["expected"])] for row, line in zip(logs, lines, strict=True)]
    expected = np.mean(np.log(np.exp(logs).sum(axis=1)) - chosen)
    assert values["score"] == pytest.approx(expected, rel=1e-9)
    assert values["better"] == "lower"


def test_numbers_are_scored_as_numbers(taught: HfModel, written: Written, tmp_path: Path) -> None:
    from picual.testing.taught import taught_model

    counts = {"one and one": "2", "two and five": "7", "nothing": "0"}
    model = taught_model(tmp_path / "m", [f"{question}={answer}\n" for question, answer in counts.items()])
    rows = [{"q": question, "a": str(int(answer) + 1)} for question, answer in counts.items()]
    data = {"d": DataConfig(files=(written(rows),), prompt="{q}=", response="{a}")}
    error = Sklearn(data="d", metric="mean_absolute_error")

    values = error.measure(model, MetricContext(data=data))

    assert (values["score"], values["better"]) == (1.0, "lower")
    with pytest.raises(BadValue, match=r"is no number; 3 was expected of the prompt 'one and one='"):
        error.measure(taught, MetricContext(data=data))


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"metric": "f1_scor"}, "no score of sklearn.metrics", "`f1_score`"),
        ({"metric": "silhouette_score"}, "no score of sklearn.metrics", ""),
        ({"metric": "log_loss"}, "scores probabilities", "by: likelihood"),
        ({"better": "heigher"}, "`better` is `heigher`", "`higher`"),
        ({"part": 2.0}, "`part` is 2", "leave out"),
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_runs(
    fields: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(BadValue, match=message) as caught:
        Sklearn(**fields)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "`f1_score` says: Target is multiclass"), ({"average": None}, "more than one number"),
     ({"avrage": "macro"}, "`f1_score` says: .*avrage")],
)  # fmt: skip
def test_options_that_do_not_fit_are_answered_with_what_scikit_learn_says(
    taught: HfModel, context: MetricContext, options: dict[str, Any], message: str
) -> None:
    asked = Sklearn(data="tone", expect="{tone}", metric="f1_score", options=options, by="likelihood")

    with pytest.raises(BadValue, match=message):
        asked.measure(taught, context)


@pytest.mark.parametrize(
    ("metric", "better", "rises"),
    [
        ("f1_score", None, True), ("hamming_loss", None, False), ("max_error", None, False),
        ("mean_gamma_deviance", None, False), ("matthews_corrcoef", None, True), ("r2_score", None, True),
        ("f1_score", "lower", False), ("max_error", "higher", True),
    ],
)  # fmt: skip
def test_which_way_is_better_is_in_the_name_or_said(metric: str, better: str | None, rises: bool) -> None:
    assert Sklearn(metric=metric, better=better).rises() is rises


def test_which_way_is_better_is_scikit_learns_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scorer of scikit-learn's whose function we know has the sign that we read from the name."""
    known = sklearn_names.names()
    compared = 0
    for name in metrics.get_scorer_names():
        scorer = metrics.get_scorer(name)
        function = scorer._score_func.__name__
        if function in known:
            compared += 1
            assert sklearn_names.falls(function) is (scorer._sign < 0), function
    assert compared > 30


def test_names_are_known_without_scikit_learn_and_read_without_importing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import sys; from picual.metrics import sklearn_names\n"
        "names = sklearn_names.names(); print('f1_score' in names, 'auc' in names, 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
    monkeypatch.setattr(sklearn_names, "_installed", frozenset)
    assert set(sklearn_names.names()) == {
        name
        for name in (*sklearn_names.OF_CLASSES, *sklearn_names.OF_NUMBERS, *sklearn_names.OF_PROBABILITIES)
        if callable(getattr(metrics, name))
    }
