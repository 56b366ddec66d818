"""`picual optimize` on a model of a few thousand weights: what it makes, what it says, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from picual import api
from picual.cli.main import group
from picual.errors import NothingFits
from picual.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("optimize") / "tiny").path


def optimize(model: Path, output: Path, *words: str) -> Result:
    store = model.parent / "store"
    return CliRunner().invoke(group, ["optimize", str(model), "-o", str(output), "--store", str(store), *words])


def test_a_size_is_filled_by_one_model_and_the_report_says_why(model: Path, tmp_path: Path) -> None:
    ended = optimize(model, tmp_path / "out", "--max-size", "150kB")

    assert ended.exit_code == 0, ended.output
    assert "size.size_mb <= 150kB: 0.1" in ended.stdout
    assert "tried of" not in ended.stdout
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [trial["candidate"] for trial in report["trials"]] == [{}]
    assert 0.110 < report["best"]["size"]["size_mb"] <= 0.150
    chosen = {note["path"]: note["text"] for note in report["notes"] if note["kind"] == "chosen"}
    assert set(chosen) == {"quantize", "build-genai", "divergence", "search"}
    assert "# build-genai: chosen: " in (tmp_path / "out/recipe.yaml").read_text()


def test_a_size_that_no_formats_reach_is_answered_with_one_that_fits(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingFits, match="no candidate keeps all limits") as caught:
        api.optimize(str(model), output=tmp_path / "out", store=model.parent / "store", max_size="20kB")

    assert caught.value.hint is not None
    size = caught.value.hint.split("<= ")[1].split("`")[0]
    made = api.optimize(str(model), output=tmp_path / "again", store=model.parent / "store", max_size=size)
    assert made.report["verdict"] == "verified"


def test_the_smallest_within_a_divergence_is_found_by_halving(model: Path, tmp_path: Path) -> None:
    made = api.optimize(str(model), output=tmp_path / "out", store=model.parent / "store", max_kl=0.02)

    assert made.report["search"]["sampler"] == "bisect"
    assert made.report["best"]["divergence"]["kl"] <= 0.02
    assert len(made.report["trials"]) == 3
    sizes = {trial["feasible"]: trial["metrics"]["size"]["size_mb"] for trial in made.report["trials"]}
    assert made.report["best"]["size"]["size_mb"] <= sizes[True]
