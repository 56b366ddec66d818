"""Where things stand in a chart, and what numbers look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picual.report.charts import curve_chart, scale, thinned
from picual.report.numbers import Measure, compact, digits, duration
from picual.report.trials import plot, trial_table
from picual.testing.sample_report import sample_report

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(values=st.lists(NUMBERS, min_size=1, max_size=6))
def test_an_axis_holds_its_values_and_ticks_in_order(values: list[float]) -> None:
    axis = scale(values)

    assert all(0 <= axis.at(value) <= 1 for value in values)
    places = [place for place, _ in axis.ticks]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert 1 <= len(places) <= 12
    assert len({text for _, text in axis.ticks}) == len(places)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 10.0], ["0.0", "2.5", "5.0", "7.5", "10.0"]),
        ([97.0, 123.8], ["100", "110", "120"]),
        ([-0.02, 0.02], ["\N{MINUS SIGN}0.02", "\N{MINUS SIGN}0.01", "0.00", "0.01", "0.02"]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], texts: list[str]) -> None:
    assert [text for _, text in scale(values).ticks] == texts


def test_a_tiny_range_around_zero_has_its_zero() -> None:
    assert [text for _, text in scale([-2e-7, 2e-7]).ticks] == [
        "\N{MINUS SIGN}2e\N{MINUS SIGN}07", "\N{MINUS SIGN}1e\N{MINUS SIGN}07", "0", "1e\N{MINUS SIGN}07",
        "2e\N{MINUS SIGN}07",
    ]  # fmt: skip


def test_shares_are_marked_in_percent() -> None:
    assert [text for _, text in scale([0.8, 0.9], factor=100).ticks] == ["80.0", "82.5", "85.0", "87.5", "90.0"]


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(x), 1.0) for x in range(5000)]
    points[3123] = (3123.0, 99.0)
    points[77] = (77.0, -5.0)

    kept = thinned(points, 100)

    assert len(kept) <= 104
    assert {points[0], points[-1], points[3123], points[77]} <= set(kept)
    assert kept == sorted(kept)


def test_a_curve_goes_down_the_page_as_its_values_fall() -> None:
    chart = curve_chart("loss", [("loss", [(0.0, 4.0), (10.0, 1.0), (20.0, float("nan"))])])

    assert chart is not None
    first, last = (tuple(map(int, pair.split(","))) for pair in chart.lines[0].points.split())
    assert (first[0], last[0]) == (0, 1000)
    assert first[1] < last[1]
    assert "from 4 to 1 in 2 points, lowest 1 at 10" in chart.lines[0].summary


def test_one_point_is_no_curve() -> None:
    assert curve_chart("loss", [("loss", [(0.0, 4.0)])]) is None


def test_the_front_of_two_numbers_is_of_feasible_trials_that_none_beats() -> None:
    report = sample_report()
    found = plot(report, trial_table(report))
    assert found is not None

    trials = {trial["number"]: trial for trial in report["trials"] if trial["feasible"]}
    numbers = {n: (t["metrics"]["size"]["size_mb"], t["metrics"]["divergence"]["kl"]) for n, t in trials.items()}
    unbeaten = {
        n
        for n, mine in numbers.items()
        if not any(theirs != mine and theirs[0] <= mine[0] and theirs[1] <= mine[1] for theirs in numbers.values())
    }
    names = [axis.name for axis in found.axes]
    pair = sorted((names.index("size.size_mb"), names.index("divergence.kl")))
    assert set(found.fronts[f"{pair[0]},{pair[1]}"]) == unbeaten
    assert 1 < len(unbeaten) < len(trials)


def test_the_plot_opens_with_the_objectives_and_draws_limits() -> None:
    report = sample_report()
    found = plot(report, trial_table(report))

    assert found is not None
    assert (found.y.name, found.x.name) == ("divergence.kl", "accuracy.accuracy")
    assert found.x.limits[0][1] == f"\N{GREATER-THAN OR EQUAL TO} {94 * 0.883:.1f} %"


def test_a_parameter_can_be_an_axis_but_has_no_front() -> None:
    report = sample_report()
    found = plot(report, trial_table(report))

    assert found is not None
    rank = next(index for index, axis in enumerate(found.axes) if axis.name == "lora.rank")
    assert not [pair for pair in found.fronts if str(rank) in pair.split(",")]


def test_no_plot_where_all_trials_stand_on_one_spot() -> None:
    report = sample_report(trials=1)

    assert plot(report, trial_table(report)) is None
    assert plot({}, trial_table({})) is None


@pytest.mark.parametrize(
    ("unit", "value", "reference", "text", "judged"),
    [
        ("%", 0.85, 0.883, "\N{MINUS SIGN}3.3 points", "worse"),
        ("%", 0.88304, 0.883, "same", ""),
        ("MB", 103.0, 538.0, "\N{MINUS SIGN}80.9 %", "better"),
        ("tokens/s", 216.0, 28.0, "7.71 times", "better"),
        ("nats", 0.16, 0.0, "+0.16 nats", "worse"),
        ("nats", None, 0.0, "\N{EN DASH}", ""),
    ],
)
def test_differences(unit: str, value: float | None, reference: float, text: str, judged: str) -> None:
    measure = Measure("m", "k", unit=unit, better="higher" if unit in {"%", "tokens/s"} else "lower")

    assert measure.difference(value, reference) == text
    assert measure.judgement(value, reference) == judged


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (41.7, "42 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_settings_on_one_line() -> None:
    assert compact({"type": "build-genai", "precision": "int4", "keep": ["a", "b"]}) == (
        "build-genai, precision int4, keep a, b"
    )
    assert [compact(value) for value in (True, None, 0.5, 12345)] == ["yes", "none", "0.5", "12345"]
    assert [digits(value) for value in (1234567.0, 12345.6, -0.5)] == ["1,234,567", "12,346", "\N{MINUS SIGN}0.5"]
