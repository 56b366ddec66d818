"""Tasks of lm-eval from local files, against lm-eval's own model class for transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue, MissingDependency, Refused, UnknownName
from picual.metrics.base import MetricContext
from picual.metrics.lm_eval import LmEval
from picual.metrics.lm_eval_model import _Answers, _generation
from picual.models import GenaiModel, HfModel

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries' own

CHOICE = """
task: tone_choice
dataset_path: json
dataset_kwargs: {data_files: {test: tone.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "<|user|>\\n{{phrase}}<|end|>\\n<|assistant|>"
doc_to_choice: [joy, sadness, fear, surprise]
doc_to_target: tone
target_delimiter: "\\n"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true},
              {metric: acc_norm, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """
task: tone_text
dataset_path: json
dataset_kwargs: {data_files: {test: tone.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
WRITTEN = """
task: tone_written
dataset_path: json
dataset_kwargs: {data_files: {test: tone.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "<|user|>\\n{{phrase}}<|end|>\\n<|assistant|>\\n"
doc_to_target: "{{tone}}"
generation_kwargs: {until: ["<|end|>", "\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def folder(tmp_path: Path, tones: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks on the eight tones, one label wrong, with texts longer than the model's context."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    made = tmp_path / "tasks"
    made.mkdir()
    for name, text in (("choice", CHOICE), ("rolling", ROLLING), ("written", WRITTEN)):
        (made / f"{name}.yaml").write_text(text)
    rows = [{"phrase": phrase, "tone": tone, "long": f"{phrase} " * 30} for phrase, tone in tones.items()]
    rows[2]["tone"] = "joy"
    (made / "tone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def own_numbers(model: HfModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(folder)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    harness = HFLM(pretrained=str(model.path), dtype="float32", device="cpu", batch_size=1, max_length=512)
    tasks = ["tone_choice", "tone_text", "tone_written"]
    found = simple_evaluate(model=harness, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    assert found is not None
    results: dict[str, dict[str, Any]] = found["results"]
    return results


def test_the_numbers_are_those_of_lm_evals_own_model(
    taught: HfModel, taught_genai: GenaiModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = LmEval(folder=str(folder))
    theirs = own_numbers(taught, folder, monkeypatch)

    for model in (taught, taught_genai):
        ours = metric.measure(model, MetricContext(threads=1))

        assert ours["tone_choice.acc"] == theirs["tone_choice"]["acc,none"] == 7 / 8
        assert ours["tone_choice.acc_norm"] == theirs["tone_choice"]["acc_norm,none"]
        assert ours["tone_written.exact_match"] == theirs["tone_written"]["exact_match,none"] == 7 / 8
        for name in ("word_perplexity", "bits_per_byte"):
            assert ours[f"tone_text.{name}"] == pytest.approx(theirs["tone_text"][f"{name},none"], rel=1e-4)
        assert set(ours["tasks"]) == {"tone_choice", "tone_text", "tone_written"}


def test_one_task_gives_a_score_and_what_was_right(taught: HfModel, folder: Path) -> None:
    values = LmEval(folder=str(folder), tasks=("tone_choice",), limit=4, number="acc").measure(
        taught, MetricContext(threads=1)
    )

    assert (values["score"], values["acc"], values["count"], values["hits"]) == (0.75, 0.75, 4, "1101")
    low, high = values["intervals"]["score"]
    assert 0.3 < low < 0.75 < high < 1


@pytest.mark.parametrize(
    ("fields", "error", "message", "hint"),
    [
        ({}, BadValue, "needs `tasks` or `folder`", "tasks:"),
        ({"tasks": ("tone_choise",), "folder": "own"}, UnknownName, "no task `tone_choise`", "`tone_choice`"),
        ({"tasks": ("tone_choice",), "folder": "own", "number": "acc_nrm", "limit": 1}, BadValue,
         "no number `acc_nrm`", "`acc_norm`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(
    taught: HfModel, folder: Path, fields: dict[str, Any], error: type[Exception], message: str, hint: str
) -> None:
    given = {**fields, **({"folder": str(folder)} if "folder" in fields else {})}

    with pytest.raises(error, match=message) as caught:
        LmEval(**given).measure(taught, MetricContext(threads=1))
    assert hint in str(getattr(caught.value, "hint", ""))


def test_a_task_file_with_a_function_is_code(taught: HfModel, folder: Path) -> None:
    assert LmEval(folder=str(folder)).user_code() is None
    (folder / "own.yaml").write_text(WRITTEN.replace("tone_written", "own") + "process_docs: !function x.y\n")
    metric = LmEval(folder=str(folder), tasks=("tone_choice",))

    assert str(metric.user_code()).endswith("own.yaml")
    with pytest.raises(BadValue, match="only when it is trusted"):
        metric.measure(taught, MetricContext())


def test_a_blank_between_context_and_continuation_goes_with_the_continuation() -> None:
    class Words:
        """Tokens are words with the blank before them."""

        def encode(self, text: str) -> list[str]:
            return [piece for piece in text.replace(" ", "| ").split("|") if piece]

        def first_id(self) -> str:
            return "<s>"

    session: Any = Words()
    model: Any = _Answers(session, 100, lambda *_: None)

    assert model._pair("Tone: ", "deep joy") == (["Tone:"], [" deep", " joy"])
    assert model._pair("Tone:", " joy") == (["Tone:"], [" joy"])
    assert model._pair("", "Tone: joy") == (["<s>"], ["Tone:", " joy"])
    assert model._pair("", "<s> joy") == (["<s>"], [" joy"])


def test_sampled_answers_are_refused() -> None:
    assert _generation({"until": "\n", "do_sample": False}) == (("\n",), 256)
    assert _generation({"until": ["a", ""], "max_gen_toks": 3, "do_sample": True, "temperature": 0.0}) == (
        ("a",),
        3,
    )
    with pytest.raises(Refused, match="sampled answers"):
        _generation({"do_sample": True, "temperature": 0.7})


def test_without_lm_eval_the_line_that_installs_it_is_said(
    taught: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)

    with pytest.raises(MissingDependency, match="needs the package `lm_eval`") as caught:
        LmEval(tasks=("arc_easy",)).measure(taught, MetricContext())
    assert caught.value.hint == 'pip install "picual[lm-eval]"'
    with pytest.raises(BadValue, match="no task file"):
        LmEval(folder="/nowhere")
