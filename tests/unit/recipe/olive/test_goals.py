from __future__ import annotations

import pytest

from picual.search.goals import Bound, Measurement

PAIRS = {
    "name": "pairs",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "json", "data_files": "rows.json"},
    "pre_process_data_config": {"dataset_type": "pair", "source_max_len": 9, "target_max_len": 9},
}


@pytest.fixture
def search(olive):
    """Return a reader of metrics whose goals a search is after."""

    def read(*metrics, strategy=True):
        return olive({
            "passes": {"tune": {"type": "LoRA", "r": [8, 16]}}, "data_configs": [PAIRS],
            "evaluators": {"all": {"metrics": list(metrics)}}, "evaluator": "all", "search_strategy": strategy,
        })  # fmt: skip

    return read


def latency(**more):
    return {"name": "latency", "type": "latency", "sub_types": [{"name": "avg", **more}]}


def throughput(**more):
    return {"name": "speed", "type": "throughput", "sub_types": [{"name": "avg", **more}]}


def accuracy(**more):
    return {
        "name": "acc", "type": "accuracy", "data_config": "pairs",
        "sub_types": [{"name": "accuracy_score", **more}],
    }  # fmt: skip


def size(**more):
    return {"name": "size", "type": "size_on_disk", "sub_types": [{"name": "bytes", **more}]}


def notes(recipe):
    return {note.path: (note.kind, note.text) for note in recipe.notes}


def goal(kind, value):
    return {"priority": 1, "goal": {"type": kind, "value": value}}


@pytest.mark.parametrize(
    ("metric", "kind", "value", "bound"),
    [
        (accuracy, "threshold", 0.9, "acc >= 0.9"), (latency, "threshold", 300, "latency.avg <= 300ms"),
        (throughput, "threshold", 5, "speed.throughput_avg >= 5"), (size, "threshold", 110e6, "size <= 110MB"),
        (accuracy, "min-improvement", 0.01, "acc >= baseline + 0.01"),
        (latency, "min-improvement", 5, "latency.avg <= baseline - 5ms"),
        (size, "min-improvement", 5e6, "size <= baseline - 5MB"),
        (accuracy, "percent-min-improvement", 5, "acc >= baseline + 5%"),
        (latency, "percent-min-improvement", 20, "latency.avg <= baseline - 20%"),
        (accuracy, "max-degradation", 0.01, "acc >= baseline - 0.01"),
        (latency, "max-degradation", 1.5, "latency.avg <= baseline + 1.5ms"),
        (accuracy, "percent-max-degradation", 1, "acc >= baseline - 1%"),
        (size, "percent-max-degradation", 150, "size <= baseline + 150%"),
        (accuracy, "max-degradation", 0, "acc >= baseline"), (accuracy, "threshold", 1e-9, "acc >= 1e-09"),
    ],
)  # fmt: skip
def test_every_type_of_goal_is_a_bound_with_the_meaning_of_its_name(search, metric, kind, value, bound):
    recipe = search(metric(**goal(kind, value)))

    ((name, text),) = recipe.search["subject_to"].items()
    assert f"{name} {text}" == bound
    Bound.read(Measurement.read(name), text)


def test_a_gain_of_a_tenth_of_a_percent_is_said_to_be_one(search):
    recipe = search(latency(**goal("percent-min-improvement", 0.1)))

    assert recipe.search["subject_to"] == {"latency.avg": "<= baseline - 0.1%"}
    text = notes(recipe)["evaluators.all.metrics.0.sub_types.0.goal.value"][1]
    assert "less than one percent: a share would be written as 10" in text


@pytest.mark.parametrize(
    ("metric", "given", "what"),
    [
        (accuracy, {"type": "max-degradation", "value": -1}, "`value` is -1; it must be at least 0"),
        (latency, {"type": "percent-min-improvement", "value": 100}, "cannot get smaller by as much"),
        (accuracy, {"type": "percent-max-degradation", "value": 100}, "cannot get smaller by as much"),
        (accuracy, {"type": "max-degradaton", "value": 1}, "`max-degradaton` is no type of goal"),
        (accuracy, {"value": 1}, "a goal without `type`"), (accuracy, {"type": "threshold"}, "without `value`"),
        (accuracy, {"type": "threshold", "value": "<here>"}, "placeholder"), (accuracy, 3, "must be a mapping"),
        (accuracy, {"type": "threshold", "value": float("inf")}, "must be a number"),
    ],
)  # fmt: skip
def test_a_goal_that_nothing_can_meet_or_that_says_nothing_is_refused(search, metric, given, what):
    recipe = search(metric(priority=1, goal=given))

    assert any(what in problem.what for problem in recipe.problems), recipe.problems
    assert "subject_to" not in recipe.search


def test_priorities_are_objectives_in_their_order(search):
    recipe = search(latency(priority=2), accuracy(priority=1), size())

    assert recipe.search["objectives"] == [{"maximize": "acc"}, {"minimize": "latency.avg"}]
    assert notes(recipe)["evaluators.all.metrics.1.sub_types.0.priority"][1].endswith("number 1")


def test_a_number_without_a_priority_is_an_objective_only_when_it_is_alone(search):
    assert search(latency()).search["objectives"] == [{"minimize": "latency.avg"}]
    assert "objectives" not in search(latency(), size()).search
    assert "objectives" not in search(latency(priority=-1), size(priority=0)).search


@pytest.mark.parametrize(
    ("sub_type", "measurement"),
    [
        ({"name": "f1_score", "metric_config": {"task": "multiclass", "average": "macro"}}, "acc.macro_f1"),
        ({"name": "recall"}, "acc"), ({"name": "exact_match"}, "acc"),
    ],
)  # fmt: skip
def test_an_objective_is_the_number_that_is_equal(search, sub_type, measurement):
    metric = {**accuracy(), "sub_types": [{**sub_type, "priority": 1}]}

    assert search(metric).search["objectives"] == [{"maximize": measurement}]


def test_a_perplexity_is_better_when_it_is_lower(search):
    metric = {**accuracy(), "sub_types": [{"name": "perplexity", "priority": 1}]}

    assert search(metric).search["objectives"] == [{"minimize": "acc"}]


def test_equal_priorities_are_in_the_order_of_the_file(search):
    recipe = search(latency(priority=1), size(priority=1))

    assert recipe.search["objectives"] == [{"minimize": "latency.avg"}, {"minimize": "size"}]
    assert "the first in the file" in notes(recipe)["evaluators.all.metrics.1.sub_types.0.priority"][1]


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        ({"is_first_priority": True}, {}, ["a", "b"]), ({}, {"is_first_priority": True}, ["b", "a"]),
        ({"priority_rank": 2}, {"priority_rank": 1}, ["b", "a"]), ({}, {}, ["a", "b"]),
    ],
)  # fmt: skip
def test_in_the_oldest_form_every_metric_is_an_objective(search, first, second, order):
    a = {"name": "a", "type": "latency", "sub_type": "avg", "metric_config": {"warmup_num": 1}, **first}
    b = {"name": "b", "type": "latency", "sub_type": "avg", **second}

    assert [one["minimize"] for one in search(a, b).search["objectives"]] == [f"{name}.avg" for name in order]


def test_a_goal_of_the_oldest_form_stands_with_its_metric(search):
    metric = {
        "name": "acc", "type": "custom", "higher_is_better": True,
        "goal": {"type": "max-degradation", "value": 0.1},
        "user_config": {"user_script": "mine.py", "evaluate_func": "judge"},
    }  # fmt: skip

    assert search(metric).search["subject_to"] == {"acc": ">= baseline - 0.1"}


@pytest.mark.parametrize(
    ("metric", "given", "bound"),
    [
        (latency, True, "<= baseline - 20%"), (throughput, False, ">= baseline + 20%"),
        (accuracy, False, ">= baseline + 20%"), (size, True, "<= baseline - 20%"),
    ],
)  # fmt: skip
def test_a_flag_does_not_turn_round_what_a_metric_measures(search, metric, given, bound):
    recipe = search(metric(higher_is_better=given, **goal("percent-min-improvement", 20)))

    assert list(recipe.search["subject_to"].values()) == [bound]
    assert notes(recipe)["evaluators.all.metrics.0.sub_types.0.higher_is_better"][0] == "replaced"


@pytest.mark.parametrize(
    ("name", "given", "direction"),
    [
        ("error", True, "maximize"), ("accuracy", False, "minimize"), ("top5", None, "maximize"),
        ("word_error", None, "minimize"), ("percentage", None, "minimize"), ("f1_score", None, "maximize"),
    ],
)  # fmt: skip
def test_a_number_of_the_users_own_goes_the_way_it_says_or_its_name(search, name, given, direction):
    entry = {"name": name, "priority": 1} | ({} if given is None else {"higher_is_better": given})
    own = {"user_script": "mine.py", "evaluate_func": "judge"}

    recipe = search({"name": "mine", "type": "custom", "sub_types": [entry], "user_config": own})

    assert recipe.search["objectives"] == [{direction: "mine"}]
    assert (
        recipe.metrics[0].fields.get("better", "higher") == {"maximize": "higher", "minimize": "lower"}[direction]
    )


def test_several_goals_of_one_number_are_all_kept(search):
    first = latency(**goal("threshold", 300))
    second = {**latency(goal={"type": "percent-min-improvement", "value": 20}), "name": "again"}

    recipe = search(first, second)

    assert recipe.search["subject_to"] == {"latency.avg": ["<= 300ms", "<= baseline - 20%"]}
    assert "overlooks" in notes(recipe)["evaluators.all.metrics.1.sub_types.0.goal.value"][1]


def test_goals_of_a_number_that_is_not_measured_are_named(search):
    lost = {**accuracy(**goal("max-degradation", 0.1)), "data_config": "gone"}

    recipe = search(lost, latency(priority=2))

    assert recipe.search["objectives"] == [{"minimize": "latency.avg"}]
    for key in ("goal", "priority"):
        kind, text = notes(recipe)[f"evaluators.all.metrics.0.sub_types.0.{key}"]
        assert (kind, "is not measured" in text) == ("later", True)


def test_goals_without_a_search_have_no_effect_and_say_so(search):
    recipe = search(latency(**goal("threshold", 300)), strategy=False)

    assert recipe.search is None
    assert notes(recipe)["evaluators.all.metrics.0.sub_types.0.goal"][0] == "ignored"
