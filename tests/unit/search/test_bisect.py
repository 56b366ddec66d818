"""Halving a row of values: how few trials it takes, and what does not lead it astray."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from picual.recipe.check import check
from picual.recipe.load import load
from picual.search import ranking, samplers
from picual.search.goals import Bound, Measurement, Objective
from picual.search.loop import EXHAUSTED, Loop
from picual.search.parameters import Candidate, Parameter, Space
from picual.search.samplers.base import Outlook
from picual.search.settings import Settings
from picual.search.study import Study
from picual.search.trial import State, Trial
from picual.space import Choice

ROW = (4, 5, 6, 7, 8, 9, 10)  # bits a weight: the smallest model first
SPACE = Space((Parameter("quantize.bits", Choice(ROW)),))


def tried(number: int, bits: int, limit: float, state: State = "complete") -> Trial:
    """Return a trial of a model whose divergence falls with its size."""
    bound = Bound.read(Measurement("divergence", "kl"), f"<= {limit}")
    metrics = {"divergence": {"kl": 1 / bits}, "size": {"size_mb": float(bits)}}
    known = {} if state == "failed" else {"kl": bound.violation(metrics, {})}
    losses = () if state == "failed" else (float(bits),)
    return Trial(candidate={"quantize.bits": bits}, state=state, metrics=metrics, losses=losses, number=number,
                 violations=known)  # fmt: skip


def search(
    folder: Path, limit: float, *, failing: tuple[int, ...] = (), parallel: int = 1,
    outlook: Callable[[Candidate], Outlook] = lambda _: Outlook(),
) -> tuple[str, list[Trial]]:  # fmt: skip
    goals = Settings(
        objectives=(Objective(Measurement("size", "size_mb"), "minimize"),),
        bounds=(Bound.read(Measurement("divergence", "kl"), f"<= {limit}"),), trials=20,
    )  # fmt: skip
    study = Study(folder / "study.jsonl", "a", SPACE, goals, 0)

    def attempt(number: int, candidate: Candidate) -> Trial:
        bits = candidate["quantize.bits"]
        return tried(number, bits, limit, "failed" if bits in failing else "complete")

    loop = Loop(study=study, sampler=samplers.load("bisect"), outlook=outlook, attempt=attempt, parallel=parallel)
    return loop.go(), study.trials


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("enough", [*ROW, 11])
def test_the_smallest_that_keeps_the_limit_is_found_in_three(tmp_path: Path, enough: int, parallel: int) -> None:
    why, trials = search(tmp_path, 1 / enough + 1e-6, parallel=parallel)

    best, _ = ranking.best(trials, [Objective(Measurement("size", "size_mb"), "minimize")])
    assert why == EXHAUSTED
    assert len(trials) == math.log2(len(ROW) + 1)
    assert (best.candidate["quantize.bits"] if best else 11) == enough


def test_what_fails_says_nothing_of_what_is_larger_or_smaller(tmp_path: Path) -> None:
    _, trials = search(tmp_path, 1 / 6 + 1e-6, failing=(4, 5, 7))

    assert next(trial.candidate["quantize.bits"] for trial in trials if trial.state == "failed") == 7
    assert any(trial.candidate["quantize.bits"] == 6 and trial.feasible for trial in trials)


def test_what_has_no_hope_is_not_tried(tmp_path: Path) -> None:
    def too_large(candidate: Candidate) -> Outlook:
        return Outlook(violations={"size": candidate["quantize.bits"] / 8 - 1})

    _, trials = search(tmp_path, 1 / 9, outlook=too_large)

    assert [trial.candidate["quantize.bits"] for trial in trials] == [6, 8]


def test_two_parameters_are_no_row() -> None:
    fields = {"bits": {"search": [4, 8]}, "block": {"search": [32, 64]}}
    recipe = {"version": 1, "model": "owner/name", "passes": {"quantize": fields, "build-genai": {}},
              "search": {"minimize": "size", "sampler": "bisect"}}  # fmt: skip

    assert ["this search has 2" in problem.what for problem in check(load(recipe))] == [True]
