"""What each section takes from a report."""

from __future__ import annotations

from typing import Any

import pytest

from picual.report.stages import comparison, confusions
from picual.report.steps import Remark, layer_errors, remarks, timeline


def test_a_step_from_the_store_has_no_place_in_the_timeline_but_its_time(report: dict[str, Any]) -> None:
    lora, merge, build = timeline(report)

    assert (merge.start, merge.width, merge.seconds) == (None, None, "8.2 s")
    whole = 99.6 + 41.7
    assert lora.start is not None
    assert build.start is not None
    assert build.width is not None
    assert abs(lora.start - 100 * 3.1 / whole) < 0.01
    assert abs(build.start + build.width - 100) < 0.01


def test_steps_of_a_report_without_starts_follow_each_other(report: dict[str, Any]) -> None:
    for step in report["steps"]:
        del step["start"]

    lora, merge, build = timeline(report)

    assert lora.start == 0
    assert merge.start is None
    assert build.start == lora.width


def test_what_was_left_alone_is_told_with_one_reason_once(report: dict[str, Any]) -> None:
    found = remarks(report)

    names = ", ".join(f"model.layers.{number}.norm" for number in range(4))
    assert Remark("build-genai", f"skipped {names} and 26 more", "not a matrix") in found
    assert Remark("lora", "", "3 rows are longer than 128 tokens and were cut") in found
    assert Remark("trial 11", "failed", "accuracy is not a number") in found
    dropped = {str(trial["number"]) for trial in report["trials"] if trial["state"] == "dropped"}
    lost = next(remark for remark in found if remark.what == "dropped early")
    assert set(lost.where.removeprefix("trials ").split(", ")) == dropped
    assert [one.where for one in found if one.what == "not used"] == ["passes.lora.config.double_quant"]
    assert not [one for one in found if one.where == "passes.builder.config.metadata"]  # it is as it was


def test_a_number_that_is_a_goal_stands_among_the_main_ones(report: dict[str, Any]) -> None:
    report["search"]["objectives"] = [{"metric": "latency", "key": "ttft_ms", "direction": "minimize"}]

    found = comparison(report)

    assert [row.measure.label for row in found.rows[:2]] == ["latency ttft_ms", "accuracy"]
    assert "latency tokens_per_s" in [row.measure.label for row in found.more]
    assert "latency ttft_ms" not in [row.measure.label for row in found.more]


def test_a_metric_of_the_users_own_goes_the_way_the_search_took_it(report: dict[str, Any]) -> None:
    for stage, value in (("baseline", 3.0), ("best", 5.0)):
        report[stage]["own"] = {"cheer": value}
    judged = {}
    for direction in ("minimize", "maximize"):
        report["search"]["objectives"] = [{"metric": "own", "key": "cheer", "direction": direction}]
        judged[direction] = comparison(report).rows[0].changes[0].judgement

    assert judged == {"minimize": "worse", "maximize": "better"}


@pytest.mark.parametrize(("lost", "judgement"), [(5, "within the noise"), (20, "worse")])
def test_a_difference_that_may_be_chance_is_not_judged(report: dict[str, Any], lost: int, judgement: str) -> None:
    for stage, right in (("baseline", 200), ("best", 200 - lost)):
        hits = "1" * right + "0" * (240 - right)
        report[stage]["accuracy"] = {"accuracy": right / 240, "hits": hits}

    row = next(row for row in comparison(report).rows if row.measure.label == "accuracy")

    assert row.changes[0].judgement == judgement


def test_a_confusion_is_shaded_by_the_share_of_its_row(report: dict[str, Any]) -> None:
    report["best"]["accuracy"]["confusion"] = {"labels": ["a", "b"], "counts": [[100, 0, 0], [1, 1, 2]]}

    (found,) = confusions(report)

    assert found.columns == ("a", "b", "other")
    assert found.rows == (("a", ((100, 5), (0, 0), (0, 0))), ("b", ((1, 2), (1, 2), (2, 3))))


def test_the_largest_errors_come_first_and_the_bars_in_order(report: dict[str, Any]) -> None:
    (found,) = layer_errors(report)

    assert len(found.layers) == 180
    assert found.layers[0][0] == "model.layers.0.attn.q_proj"
    errors = [entry["error"] for entry in report["steps"][2]["journal"] if "error" in entry]
    assert [float(error) for _, error, _ in found.worst] == sorted(errors, reverse=True)[:10]
    assert all(0 < height <= 1 for _, _, height in found.layers)
