"""Two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from picual import api
from picual.cli.main import group
from picual.report import compare
from picual.testing.sample_report import sample_report


def other(accuracy: float, size: float) -> dict[str, Any]:
    """Return the sample with other numbers and settings."""
    report = sample_report()
    report["best"]["accuracy"] |= {
        "accuracy": accuracy, "intervals": {"accuracy": [accuracy - 0.05, accuracy + 0.05]},
    }  # fmt: skip
    report["best"]["size"]["size_mb"] = size
    report["recipe_text"] = (
        report["recipe_text"].replace("trials: 20", "trials: 8").replace("    holdout: 0.2\n", "")
    )
    return report


def row(compared: dict[str, Any], label: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in compared["metrics"] if one["label"] == label)
    return found


def test_the_best_of_each_stand_beside_each_other_with_which_is_better(report: dict[str, Any]) -> None:
    size = report["best"]["size"]["size_mb"]

    compared = compare(report, other(accuracy=0.5, size=size / 2))

    assert row(compared, "accuracy")["better"] == "first"  # more is better
    assert row(compared, "accuracy")["within_noise"] is False
    assert row(compared, "size")["better"] == "second"  # less is better
    assert row(compared, "size")["difference"] == pytest.approx(-size / 2)
    assert row(compared, "size")["difference_text"] == "\N{MINUS SIGN}50.0 %"
    assert row(compared, "size")["within_noise"] is None  # nothing is known of its noise
    assert row(compared, "divergence")["better"] is None  # the same number


def test_numbers_inside_each_others_interval_are_within_the_noise(report: dict[str, Any]) -> None:
    close = report["best"]["accuracy"]["accuracy"] + 0.01

    assert row(compare(report, other(close, 100.0)), "accuracy")["within_noise"] is True


@pytest.mark.parametrize(("first", "second"), [([0.5, 0.9], [0.79, 0.81]), ([0.59, 0.61], [0.5, 0.9])])
def test_one_number_in_the_others_wide_interval_alone_is_no_noise(
    report: dict[str, Any], first: list[float], second: list[float]
) -> None:
    """0.6 against 0.8: the narrow interval of one of them leaves the other out."""
    theirs = other(0.8, 100.0)
    report["best"]["accuracy"] |= {"accuracy": 0.6, "intervals": {"accuracy": first}}
    theirs["best"]["accuracy"]["intervals"] = {"accuracy": second}

    assert row(compare(report, theirs), "accuracy")["within_noise"] is False


def test_settings_that_differ_are_named_by_their_path(report: dict[str, Any]) -> None:
    compared = compare(report, other(0.8, 100.0))

    assert compared["recipe"] == [
        {"path": "data.tone.holdout", "values": [0.2, None]},
        {"path": "search.trials", "values": [20, 8]},
    ]


def test_a_metric_that_only_one_has_is_shown_for_that_one(report: dict[str, Any]) -> None:
    fewer = sample_report()
    del fewer["best"]["latency"]

    for compared, values in ((compare(report, fewer), slice(0, 1)), (compare(fewer, report), slice(1, 2))):
        found = row(compared, "latency")
        assert found["values"][values] == [report["best"]["latency"]["ms_per_token"]]
        assert found["difference"] is None
        assert None in found["values"]


def test_a_report_without_its_recipe_compares_numbers_alone(report: dict[str, Any]) -> None:
    old = sample_report()
    del old["recipe_text"]

    compared = compare(report, old)

    assert compared["recipe"] is None
    assert compared["metrics"]


@pytest.fixture
def folders(tmp_path: Path, report: dict[str, Any]) -> list[str]:
    """Two output folders."""
    for name, one in (("one", report), ("two", other(0.5, 60.0))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(one))
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def run(*words: str) -> str:
    ended = CliRunner().invoke(group, ["report", *words])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_the_command_compares_as_text_and_as_json(folders: list[str]) -> None:
    text = run(folders[0], "--compare", folders[1])
    found = json.loads(run(folders[0], "--compare", folders[1], "--json"))

    size = next(line for line in text.splitlines() if line.startswith("size"))
    assert size.split()[3:5] == ["60", "MB"]
    assert size.endswith("2")
    assert "search.trials" in text
    assert json.loads(json.dumps(api.compare(*folders))) == found


@pytest.mark.parametrize(("option", "name"), [("--html", "report.html"), ("--md", "report.md")])
def test_the_command_prints_only_the_path_of_what_it_wrote(folders: list[str], option: str, name: str) -> None:
    assert run(folders[0], option) == f"{folders[0]}/{name}\n"
    assert "Verified: a model" in Path(folders[0], name).read_text()


def test_only_one_form_is_asked_for(folders: list[str]) -> None:
    ended = CliRunner().invoke(group, ["report", folders[0], "--html", "--compare", folders[1]])

    assert ended.exit_code == 2
    assert "give one of" in ended.output
