"""The record of a study, the loop, and samplers on a table of numbers."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from picual.search import samplers
from picual.search.goals import Bound, Measurement, Objective
from picual.search.loop import EXHAUSTED, Loop
from picual.search.parameters import Candidate, Parameter, Space
from picual.search.samplers.base import Outlook
from picual.search.samplers.pass_by_pass import PassByPass
from picual.search.settings import Settings
from picual.search.study import Study
from picual.search.trial import Trial
from picual.space import Choice, FloatRange, IntRange

SPACE = Space((
    Parameter("lora.rank", Choice((16, 8))),
    Parameter("lora.steps", Choice((150, 50))),
    Parameter("export.block", Choice((32, 64, 128))),
    Parameter("export.symmetric", Choice((False, True))),
    Parameter("export.head", Choice(("int8", "int4"))),
))  # fmt: skip
LOSS = Measurement("divergence", "kl")
BOUND = Bound.read(Measurement("size", "size_mb"), "<= 95")
NAMES = tuple(name for name in samplers.names() if name != "bisect")  # which takes one row: test_bisect
GOALS = Settings(objectives=(Objective(LOSS, "minimize"),), bounds=(BOUND,), trials=14)


def size(candidate: Candidate) -> float:
    return float(
        80 + 640 / candidate["export.block"] + (0 if candidate["export.symmetric"] else 2)
        - (8 if candidate["export.head"] == "int4" else 0)
    )  # fmt: skip


def loss(candidate: Candidate) -> float:
    return float(
        0.2 * (candidate["export.block"] / 32) ** 0.2
        * (1.15 if candidate["export.symmetric"] else 1) * (1.1 if candidate["export.head"] == "int4" else 1)
        * (0.97 if candidate["lora.rank"] == 8 else 1) * (0.95 if candidate["lora.steps"] == 50 else 1)
    )  # fmt: skip


def tried(number: int, candidate: Candidate) -> Trial:
    metrics = {"divergence": {"kl": loss(candidate)}, "size": {"size_mb": size(candidate)}}
    violation = BOUND.violation(metrics, {})
    return Trial(candidate=candidate, state="complete", metrics=metrics, losses=(loss(candidate),), number=number,
                 violations={"size": violation}, keys=(str(candidate["lora.rank"]),))  # fmt: skip


def outlook(candidate: Candidate) -> Outlook:
    return Outlook(violations={"size": size(candidate) / 95 - 1})


def study(folder: Path, settings: Settings = GOALS, *, seed: int = 0, space: Space = SPACE) -> Study:
    return Study(folder / "study.jsonl", "a", space, settings, seed)


def run(
    a_study: Study, sampler: str, attempt: Callable[[int, Candidate], Trial] = tried, **options: object
) -> str:
    outlooks: Callable[[Candidate], Outlook] = options.pop("outlook", outlook)  # type: ignore[assignment]
    loop = Loop(
        study=a_study, sampler=samplers.load(sampler), outlook=outlooks, attempt=attempt, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return loop.go()


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_tries_no_candidate_twice_and_none_without_hope(tmp_path: Path, name: str) -> None:
    a_study = study(tmp_path)

    why = run(a_study, name)

    candidates = [tuple(trial.candidate.values()) for trial in a_study.trials]
    assert why == (EXHAUSTED if name == "gp" else "the budget of 14 trials is used")
    assert len(set(candidates)) == len(candidates)
    assert len(candidates) == 14 or name == "gp"  # which ends by itself
    assert all(size(trial.candidate) <= 95 for trial in a_study.trials)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_that_ended_anywhere_goes_on_to_the_same_trials(tmp_path: Path, name: str) -> None:
    whole = study(tmp_path / "whole")
    run(whole, name)

    def stops_in_the_sixth(number: int, candidate: Candidate) -> Trial:
        if number == 6:
            raise KeyboardInterrupt
        return tried(number, candidate)

    with pytest.raises(KeyboardInterrupt):
        run(study(tmp_path / "cut"), name, stops_in_the_sixth)
    with (tmp_path / "cut/study.jsonl").open("a") as journal:
        journal.write('{"half a li')
    cut = study(tmp_path / "cut")
    done = [trial.number for trial in cut.trials]
    run(cut, name)

    assert done == [1, 2, 3, 4, 5]
    assert [trial.candidate for trial in cut.trials] == [trial.candidate for trial in whole.trials]
    assert [trial.number for trial in cut.trials] == list(range(1, len(whole.trials) + 1))


def test_a_journal_that_ends_after_any_line_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    few = replace(GOALS, trials=3)
    whole = study(tmp_path / "whole", few)
    run(whole, "random")
    lines = (tmp_path / "whole/study.jsonl").read_text().splitlines(keepends=True)

    for count in range(1, len(lines)):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "study.jsonl").write_text("".join(lines[:count]))
        cut = study(folder, few)
        run(cut, "random")
        told = [(trial.number, trial.candidate) for trial in cut.trials]
        assert told == [(trial.number, trial.candidate) for trial in whole.trials], count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lost", [5, 6])
def test_one_of_two_side_by_side_that_was_lost_keeps_its_number(tmp_path: Path, name: str, lost: int) -> None:
    whole = study(tmp_path / "whole")
    run(whole, name, parallel=2)
    other_has_ended = threading.Event()

    def loses_one(number: int, candidate: Candidate) -> Trial:
        if number == lost:
            other_has_ended.wait(10)
            raise KeyboardInterrupt
        if {number, lost} == {5, 6}:
            other_has_ended.set()
        return tried(number, candidate)

    with pytest.raises(KeyboardInterrupt):
        run(study(tmp_path / "cut"), name, loses_one, parallel=2)
    cut = study(tmp_path / "cut")
    done = sorted(trial.number for trial in cut.trials)
    run(cut, name, parallel=2)

    assert done == list(range(1, lost))  # what ended after one that was lost is told after it, too
    assert {trial.number: trial.candidate for trial in cut.trials} == {
        trial.number: trial.candidate for trial in whole.trials
    }
    assert len({trial.number for trial in cut.trials}) == len(cut.trials)


@pytest.mark.parametrize("name", NAMES)
def test_trials_are_told_in_order_whichever_ends_first(tmp_path: Path, name: str) -> None:
    told: list[int] = []

    def slow_first(number: int, candidate: Candidate) -> Trial:
        time.sleep(0.05 if number % 4 == 1 else 0.0)  # the first of each batch ends last
        return tried(number, candidate)

    def tells(trial: Trial) -> Trial:
        told.append(trial.number)
        return trial

    shuffled, even = study(tmp_path / "shuffled"), study(tmp_path / "even")
    run(shuffled, name, slow_first, parallel=4, settle=tells)
    run(even, name, parallel=4)

    assert told == sorted(told)
    assert [trial.candidate for trial in shuffled.trials] == [trial.candidate for trial in even.trials]


def test_the_same_seed_gives_the_same_trials_and_another_others(tmp_path: Path) -> None:
    first, same, other = (study(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for one in (first, same, other):
        run(one, "random")

    assert [trial.candidate for trial in first.trials] == [trial.candidate for trial in same.trials]
    assert [trial.candidate for trial in first.trials] != [trial.candidate for trial in other.trials]


def test_bounds_reach_optuna_as_constraints(tmp_path: Path) -> None:
    a_study = study(tmp_path, replace(GOALS, trials=3))
    run(a_study, "random", outlook=lambda _candidate: Outlook())

    frozen = a_study.record.get_trials()

    assert [trial.constraints["size"] for trial in frozen] == [
        trial.violations["size"] for trial in a_study.trials
    ]


def test_the_process_finds_the_best_of_48_with_few_trials_and_few_expensive_steps(tmp_path: Path) -> None:
    candidates = SPACE.candidates()
    assert candidates is not None
    optimum = min(loss(one) for one in candidates if size(one) <= 95)
    a_study = study(tmp_path, replace(GOALS, trials=12))

    run(a_study, "gp")

    assert min(trial.losses[0] for trial in a_study.trials if trial.losses[0]) == pytest.approx(optimum)


def test_the_process_finds_a_bound_that_cannot_be_forecast(tmp_path: Path) -> None:
    """Half of the space breaks it, the better half: trials must soon stay out of there."""

    def strict(number: int, candidate: Candidate) -> Trial:
        trial = tried(number, candidate)
        return replace(trial, violations={"accuracy": 0.2 if candidate["lora.steps"] == 50 else -0.1})

    a_study = study(tmp_path, replace(GOALS, trials=12))
    run(a_study, "gp", strict, outlook=lambda _candidate: Outlook())

    feasible = [trial for trial in a_study.trials if trial.feasible]
    assert len(feasible) > len(a_study.trials) / 2
    within = [loss(one) for one in SPACE.candidates() or [] if one["lora.steps"] == 150]
    assert min(trial.losses[0] or math.inf for trial in feasible) == pytest.approx(min(within))


def test_pass_by_pass_tries_the_sum_and_keeps_the_best_of_each_step(tmp_path: Path) -> None:
    a_study = study(tmp_path, replace(GOALS, trials=40))
    loop = Loop(study=a_study, sampler=PassByPass(samplers.load("grid")), outlook=outlook, attempt=tried)

    why = loop.go()

    lora, export = 2 * 2, 3 * 2 * 2
    first = [trial.candidate for trial in a_study.trials[:lora]]
    assert why == EXHAUSTED
    assert len(a_study.trials) <= lora + export
    assert len({(one["lora.rank"], one["lora.steps"]) for one in first}) == 4
    later = {(trial.candidate["lora.rank"], trial.candidate["lora.steps"]) for trial in a_study.trials[lora:]}
    assert later == {(8, 50)}


def test_what_failed_of_something_that_may_pass_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    def fails(number: int, one: Candidate) -> Trial:
        if number in {2, 3}:
            return Trial(number=number, candidate=one, state="failed", may_pass=number == 3)
        return tried(number, one)

    first = study(tmp_path)
    run(first, "random", fails)
    before = {trial.number: trial for trial in first.trials}

    again = study(tmp_path)
    attempts = []
    run(again, "random", lambda number, one: attempts.append(number) or tried(number, one))
    after = {trial.number: trial for trial in again.trials}

    assert attempts == [3]
    assert after[3].state == "complete"
    assert after[3].candidate == before[3].candidate
    assert {**after, 3: before[3]} == before
    assert study(tmp_path).trials == again.trials


def test_pass_by_pass_leads_optunas_sampler_and_not_chance(tmp_path: Path) -> None:
    """20 trials of one step: the estimators gather near the optimum, where chance does not."""
    space = Space((Parameter("a.x", FloatRange(0.0, 1.0)),))
    settings = Settings(objectives=(Objective(LOSS, "minimize"),), trials=20, pass_by_pass=True)

    def off(number: int, one: Candidate) -> Trial:
        return Trial(number=number, candidate=one, state="complete", losses=(abs(one["a.x"] - 0.8),))

    def tries(name: str) -> list[float]:
        a_study = study(tmp_path / name, settings, space=space)
        sampler = PassByPass(samplers.load(name))
        Loop(study=a_study, sampler=sampler, outlook=lambda _candidate: Outlook(), attempt=off).go()
        return [abs(trial.candidate["a.x"] - 0.8) for trial in a_study.trials[10:]]

    assert sum(tries("tpe")) < 0.5 * sum(tries("random"))


def test_a_space_is_used_up(tmp_path: Path) -> None:
    small = Space(SPACE.parameters[:1])
    a_study = study(tmp_path, space=small)

    why = run(a_study, "grid", lambda number, one: Trial(number=number, candidate=one, state="failed"),
              outlook=lambda _candidate: Outlook())  # fmt: skip

    assert why == EXHAUSTED
    assert [trial.candidate["lora.rank"] for trial in a_study.trials] == [16, 8]


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_spaces_without_end_are_searched(tmp_path: Path, name: str) -> None:
    space = Space((Parameter("x", FloatRange(1e-4, 1.0, log=True)), Parameter("n", IntRange(1, 50))))
    settings = Settings(objectives=GOALS.objectives, trials=25)
    a_study = study(tmp_path, settings, space=space)

    def attempt(number: int, candidate: Candidate) -> Trial:
        far = abs(math.log(candidate["x"] / 0.01)) + abs(candidate["n"] - 20) / 10
        return Trial(number=number, candidate=candidate, state="complete", losses=(far,))

    run(a_study, name, attempt, outlook=lambda _candidate: Outlook())

    assert len(a_study.trials) == 25
    assert all(1e-4 <= trial.candidate["x"] <= 1 and 1 <= trial.candidate["n"] <= 50 for trial in a_study.trials)


def test_nsga2_breeds_a_second_generation(tmp_path: Path) -> None:
    goals = (Objective(LOSS, "minimize"), Objective(Measurement("size", "size_mb"), "minimize"))
    a_study = study(tmp_path, Settings(objectives=goals, trials=16))

    def attempt(number: int, candidate: Candidate) -> Trial:
        return replace(tried(number, candidate), losses=(loss(candidate), size(candidate)), violations={})

    run(a_study, "nsga2", attempt, outlook=lambda _candidate: Outlook())

    generations = {
        value for trial in a_study.record.get_trials() for key, value in trial.system_attrs.items()
        if "generation" in key
    }  # fmt: skip
    assert len(generations) > 1


def test_trials_run_beside_each_other_and_are_numbered_as_asked(tmp_path: Path) -> None:
    a_study = study(tmp_path)

    run(a_study, "tpe", parallel=3)

    assert [trial.number for trial in a_study.trials] == list(range(1, 15))
    assert len({tuple(trial.candidate.values()) for trial in a_study.trials}) == 14


def test_time_that_is_up_and_a_candidate_that_keeps_all_bounds_end_the_search(tmp_path: Path) -> None:
    out_of_time = study(tmp_path / "time", replace(GOALS, timeout=1e-9))
    met = study(tmp_path / "met", replace(GOALS, stop_when_met=True))

    assert run(out_of_time, "gp") == "the time of 1e-09 s is up"
    assert run(met, "gp") == "a candidate keeps all bounds"
    assert len(list(itertools.chain(out_of_time.trials, met.trials))) == 1
