"""Perplexity and divergence: the metrics that read logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from picual.data.base import DataConfig
from picual.errors import BadValue, Refused
from picual.metrics.base import MetricContext
from picual.metrics.divergence import Divergence
from picual.metrics.perplexity import Perplexity
from picual.models import GenaiModel, HfModel
from picual.testing.tiny import tiny_model

TEXT = "".join(f"{number} bottles of oil, {number * 7 % 13} of them green. " for number in range(60))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return str(tmp_path / "text.txt")


def losses(model: HfModel, windows: int, length: int) -> list[float]:
    """The mean loss of each window, as transformers computes it for training."""
    network = AutoModelForCausalLM.from_pretrained(model.path)
    ids = AutoTokenizer.from_pretrained(model.path)(TEXT, add_special_tokens=False)["input_ids"]
    found = []
    for start in range(0, windows * length, length):
        window = torch.tensor([ids[start : start + length]])
        assert window.shape[1] == length
        with torch.inference_mode():
            found.append(float(network(input_ids=window, labels=window).loss))
    return found


def test_perplexity_is_exp_of_the_mean_loss_over_the_windows(taught: HfModel, text: str) -> None:
    expected = losses(taught, windows=3, length=100)

    values = Perplexity(file=text, windows=3, length=100).measure(taught, MetricContext())

    assert values["tokens"] == 3 * 99
    assert values["nll"] == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(sum(expected) / 3), rel=1e-5)


def test_the_exported_model_has_the_same_perplexity(taught: HfModel, taught_genai: GenaiModel, text: str) -> None:
    metric = Perplexity(file=text, windows=2, length=128)

    exported, original = (metric.measure(model, MetricContext()) for model in (taught_genai, taught))

    assert exported["perplexity"] == pytest.approx(original["perplexity"], rel=1e-5)


def test_a_text_with_fewer_windows_is_scored_as_far_as_it_goes(taught: HfModel, text: str) -> None:
    values = Perplexity(file=text, windows=1000, length=300).measure(taught, MetricContext())

    assert values["tokens"] == len(TEXT) // 300 * 299  # one token a byte


def test_rows_of_a_data_set_are_scored_as_one_text(
    taught: HfModel, written: Callable[[list[dict[str, Any]]], str], tmp_path: Path
) -> None:
    rows = [{"a": "some words " * 6}, {"a": "and others " * 6}]
    data = {"d": DataConfig(files=(written(rows),), template="<{a}>")}
    joined = "\n\n".join(f"<{row['a']}>" for row in rows)
    (tmp_path / "joined.txt").write_text(joined, encoding="utf-8")

    by_data = Perplexity(data="d", windows=9, length=50).measure(taught, MetricContext(data=data))
    by_file = Perplexity(file=str(tmp_path / "joined.txt"), windows=9, length=50)

    assert by_data == by_file.measure(taught, MetricContext())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either `data` or `file`"),
        ({"data": "d", "file": "f"}, "either `data` or `file`"),
        ({"file": "nowhere.txt"}, "`nowhere.txt` is not there"),
        ({"length": 1}, "2 tokens"),
        ({"length": 100_000}, "one window takes 100000"),
    ],
)
def test_a_text_that_cannot_be_scored_is_a_bad_value(
    taught: HfModel, text: str, fields: dict[str, Any], message: str
) -> None:
    given = {"file": text, **fields} if "length" in fields else fields
    with pytest.raises(BadValue, match=message):
        Perplexity(**given).measure(taught, MetricContext())


def test_a_text_that_is_not_utf8_is_a_bad_value(taught: HfModel, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"na\xefve" * 100)
    with pytest.raises(BadValue, match="not UTF-8"):
        Perplexity(file=str(tmp_path / "latin.txt")).measure(taught, MetricContext())


def test_divergence_is_zero_from_itself_and_torchs_from_another(
    taught: HfModel, taught_genai: GenaiModel, tmp_path: Path, text: str
) -> None:
    other = tiny_model(tmp_path / "other")
    ids = torch.tensor(
        [AutoTokenizer.from_pretrained(taught.path)(TEXT, add_special_tokens=False)["input_ids"][:200]]
    )
    with torch.inference_mode():
        scores = [AutoModelForCausalLM.from_pretrained(model.path)(ids).logits[0] for model in (other, taught)]
    logs = [score.double().log_softmax(-1) for score in scores]
    expected = torch.nn.functional.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")
    agreed = (scores[0].argmax(-1) == scores[1].argmax(-1)).double().mean()

    metric = Divergence(reference=taught.to_wire(), file=text, windows=1, length=200)
    values = metric.measure(other, MetricContext())
    exported = metric.measure(taught_genai, MetricContext())

    assert values["kl"] == pytest.approx(float(expected), rel=1e-4)
    assert values["top1"] == pytest.approx(float(agreed))
    assert exported["kl"] < 1e-8
    assert exported["top1"] == 1.0


def test_divergence_says_what_it_lacks(taught: HfModel, text: str) -> None:
    with pytest.raises(BadValue, match="has no model `unquantized` to compare with"):
        Divergence(file=text).measure(taught, MetricContext())


def test_models_of_different_vocabularies_are_refused(taught: HfModel, tmp_path: Path, text: str) -> None:
    network = AutoModelForCausalLM.from_pretrained(taught.path)
    network.resize_token_embeddings(330, mean_resizing=False)
    network.save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(taught.path).save_pretrained(tmp_path / "wide")

    metric = Divergence(reference=taught.to_wire(), file=text, windows=1, length=50)
    with pytest.raises(Refused, match="330 tokens and its reference 320"):
        metric.measure(HfModel(tmp_path / "wide"), MetricContext())


def test_the_spread_of_perplexity_is_students_t_of_the_windows_losses(taught: HfModel, text: str) -> None:
    from scipy import stats

    expected = losses(taught, windows=5, length=100)

    values = Perplexity(file=text, windows=5, length=100).measure(taught, MetricContext())

    mean, error = sum(expected) / 5, stats.sem(expected)
    bounds = stats.t.interval(0.95, 4, loc=mean, scale=error)
    assert values["spread"]["nll"] == pytest.approx(bounds, rel=2e-3)
    assert values["spread"]["perplexity"] == pytest.approx([math.exp(bound) for bound in bounds], rel=5e-3)
    assert "spread" not in Perplexity(file=text, windows=1, length=100).measure(taught, MetricContext())


def test_a_probe_scores_a_quarter_of_the_windows(taught: HfModel) -> None:
    probe = Perplexity(file="f").probe()

    assert probe is not None
    assert (probe.windows, probe.length) == (10, 512)
    assert Perplexity(file="f", windows=4).probe() is None


def test_the_window_whose_logits_are_not_finite_is_named(
    taught: HfModel, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picual.errors import StepFailed
    from picual.models.hf_session import HfSession

    plain, calls = HfSession.logits, list[int]()

    def broken(self: HfSession, ids: Any) -> Any:
        calls.append(len(ids))
        found = plain(self, ids)
        if len(calls) == 2:
            found[7, 3] = math.inf
        return found

    monkeypatch.setattr(HfSession, "logits", broken)
    with pytest.raises(StepFailed, match="logits on window 2 of the text are not finite"):
        Perplexity(file=text, windows=3, length=64).measure(taught, MetricContext())
