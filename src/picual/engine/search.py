"""The search of a plan: candidates become models, models become numbers, and the best is always on disk.

Only a candidate that leads is verified and placed into the output folder: what others see there is always a whole,
verified model that keeps all bounds.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from picual import _atomic, fingerprint
from picual.engine import output as output_folder
from picual.engine.candidates import Candidates, patient
from picual.engine.limits import explained
from picual.engine.metrics import metric_ingredients
from picual.engine.results import Limit, RunResult, SearchResult, Stage
from picual.engine.stages import stages_of
from picual.engine.work import Work
from picual.errors import Interrupted, NothingFits, NotVerified, PicualError, StepFailed, StoreError
from picual.plan import Plan, data_ingredients
from picual.search import ranking, samplers
from picual.search.goals import Bound
from picual.search.loop import Loop
from picual.search.samplers.base import Sampler
from picual.search.samplers.pass_by_pass import PassByPass
from picual.search.settings import Settings
from picual.search.study import Study
from picual.search.trial import Trial

STUDY = "study.jsonl"
CLOSEST = "closest"  # the folder of the closest candidate when none keeps all bounds


class Search:
    """One search under way; what it finds goes into ``result``."""

    def __init__(self, work: Work, plan: Plan, source: Stage, result: RunResult, *, fresh: bool) -> None:
        assert plan.search is not None
        self.work, self.plan, self.source, self.result = work, plan, source, result
        self.settings: Settings = plan.search
        self.seed = plan.recipe.seed if self.settings.seed is None else self.settings.seed
        self.store = work.store
        self.candidates = Candidates(work, plan, source)
        self._least: Trial | None = None  # of the feasible ones, that with the least loss; None: to be looked for
        self._fresh = fresh

    def go(self) -> None:
        """Try candidates and place the best; say what was found, whatever happens.

        Raises:
            NothingFits: No candidate keeps the bounds.
            PicualError: What stopped the search, or every candidate.
        """
        self.candidates.baseline = {
            planned.name: self.work.value(self.plan, planned, self.source, known={})
            for planned in self.plan.metrics
            if any(bound.reference == "baseline" and bound.measurement.metric == planned.name
                   for bound in self.settings.bounds)
        }  # fmt: skip
        file = self.result.output / "run" / STUDY
        if self._fresh:
            file.unlink(missing_ok=True)
        size = self.plan.space.size
        name = self.plan.sampler
        found = SearchResult(sampler=name, seed=self.seed, size=size)
        self.result.search = found
        study = Study(file, self.identity(), self.plan.space, self.settings, self.seed)
        self.candidates.made.update(key for trial in study.trials for key in trial.keys)
        loop = Loop(
            study=study, sampler=self._sampler(name), outlook=self.candidates.outlook,
            attempt=self.candidates.attempt,
            settle=lambda trial: self.settle(trial, study.trials), parallel=len(self.work.hosts),
            abandon=self.work.hosts.close,
        )  # fmt: skip
        try:
            found.stopped = loop.go()
        finally:
            self.describe(study.trials)
        self.choose(study.trials)

    def _sampler(self, name: str) -> Sampler:
        sampler = samplers.load(name)
        return PassByPass(sampler) if self.settings.pass_by_pass else sampler

    def identity(self) -> str:
        """Return what a study is known by: a recipe that asks for something else begins a new one."""
        goals = [repr(goal) for goal in (*self.settings.objectives, *self.settings.bounds)]
        digests, known = self.work.digests, {"baseline": self.source, "unquantized": self.source}
        wanted = {one.metric for one in self.settings.measurements}
        metrics = {
            one.name: metric_ingredients(one, self.source, self.plan, digests, known=known)
            for one in self.plan.metrics if one.name in wanted
        }  # fmt: skip
        steps = [[step.name, step.type, dict(step.fields)] for step in self.plan.open_recipe.steps]
        data = {
            name: data_ingredients(one, digests) for name, one in self.plan.open_recipe.data.items() if one.files
        }
        first = [step.key for step in self.plan.steps]
        asked = [goals, metrics, steps, data, first, self.settings.sampler, self.seed, self.settings.pass_by_pass]
        return fingerprint.digest(asked)[:16]

    # -- the best so far --------------------------------------------------------------------------------

    def settle(self, trial: Trial, others: Sequence[Trial]) -> Trial:
        """Verify and place a trial that leads; one that does not pass verification has failed."""
        with self.work.desk.taken():
            return self._settled(trial, others)

    def _settled(self, trial: Trial, others: Sequence[Trial]) -> Trial:
        leads = self._leads(trial, others)
        if leads:
            try:
                patient(lambda: self.place(trial))
            except (Interrupted, StoreError):
                raise
            except PicualError as error:
                trial = replace(trial, state="failed", why=f"{type(error).__name__}: {error.what}")
                leads, self._least = False, None  # to be looked for anew: it may have been this one
        self.candidates.made.update(trial.keys)
        self.work.events.emit(
            "trial", status="done", number=trial.number, state=trial.state, feasible=trial.feasible, best=leads,
            why=trial.why, seconds=trial.seconds, metrics=_brief(trial),
        )  # fmt: skip
        return trial

    def _leads(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Say whether a trial is the best so far.

        One that neither has the least loss nor ties with the one that has is not, whatever the others are: of many
        thousands hardly any need more than that look.
        """
        objectives = self.settings.objectives
        if not trial.feasible:
            return False
        if self._least is None or not objectives:
            self._least = ranking.least([*others, trial]) if objectives else None
        elif ranking.least([self._least, trial]) is trial:
            self._least = trial
        elif not ranking.is_tie(trial, self._least, objectives[0], 0):
            return False
        return ranking.best([*others, trial], objectives)[0] is trial

    def place(self, trial: Trial, *, name: str = "model") -> None:
        """Verify every step of a trial and put its model into the output folder.

        Raises:
            NotVerified: A step does not keep its promise.
        """
        plan = self.candidates.plan_of(trial.candidate)
        made = self.candidates.make(plan)
        self.work.gather.checks(plan, made)
        for one in made:
            try:
                self.work.verify(plan, one.step, one.done, one.given, one.stage)
            except NotVerified:
                self.candidates.broken.add(one.done.key)
                raise
        self.result.plan, self.result.steps = plan, [one.done for one in made]
        self.result.stages = stages_of(plan, self.source, made)
        with self.work.desk.left():
            output_folder.place(self.result, self.store, name=name)

    # -- the end ----------------------------------------------------------------------------------------

    def describe(self, trials: Sequence[Trial]) -> None:
        """Put what was tried into the result, best first."""
        found = self.result.search
        assert found is not None
        objectives = self.settings.objectives
        best, tied = ranking.best(trials, objectives)
        found.trials = ranking.ranked(trials, objectives)
        found.ruled_out = self._hopeless(trials)
        found.best = None if best is None else best.number
        found.tied = sorted(trial.number for trial in tied)
        found.front = sorted(trial.number for trial in ranking.front(trials))

    def _hopeless(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the candidates that need no trial, numbered on: what is known beforehand rules them out."""
        if (self.plan.space.size or samplers.LARGEST_MODELLED) >= samplers.LARGEST_MODELLED:
            return []
        tried = [dict(trial.candidate) for trial in trials]
        number = 1 + max((trial.number for trial in trials), default=0)
        found: list[Trial] = []
        for candidate in self.plan.space.candidates() or []:
            outlook = self.candidates.outlook(candidate)
            if outlook.hopeless and candidate not in tried:
                blank = Trial(candidate=candidate, state="dropped", number=number + len(found))
                plan = self.candidates.plan_of(candidate)
                found.append(self.candidates.ruled_out(blank, plan, outlook))
        return found

    def choose(self, trials: Sequence[Trial]) -> None:
        """Leave the best trial in the output folder, verified.

        Raises:
            NothingFits: No trial keeps the bounds; the closest is in ``OUT/closest``.
            StepFailed: Every trial failed.
        """
        left = list(trials)
        while (best := ranking.best(left, self.settings.objectives)[0]) is not None:
            try:
                patient(lambda: self.place(best))
            except NotVerified as error:
                failed = replace(best, state="failed", why=f"NotVerified: {error.what}")
                left[left.index(best)] = failed
                self.describe(left)
                continue
            _atomic.remove(self.result.output / CLOSEST)  # of an earlier run
            self.result.limits = self.limits(best)
            return
        self._nothing_fits(left)

    def _nothing_fits(self, trials: Sequence[Trial]) -> None:
        found = self.result.search
        assert found is not None
        closest = ranking.closest([*trials, *found.ruled_out])
        if closest is None:
            first = trials[0].why if trials else found.stopped
            file, output = self.plan.recipe.file, self.result.output
            again = shlex.join(["picual", "run", file, "-o", str(output), "--fresh"])
            hint = every_trial(output) + (f"; `{again}` tries again" if file else "")
            raise StepFailed(f"no candidate could be measured: {first}", hint=hint)
        found.closest = closest.number
        self.result.placed = False
        if earlier := output_folder.move_aside(self.result.output):
            self.work.events.emit("warning", path="output", text=f"the model that was there is now in {earlier}")
        if not closest.metrics.get("size", {}).get("forecast"):
            with contextlib.suppress(NotVerified):
                self.place(closest, name=CLOSEST)
        self.result.limits = self.limits(closest)
        missing = [str(one.measurement) for one in self.settings.objectives
                   if one.measurement.of(closest.metrics) is None]  # fmt: skip
        tried = f"{len(trials)} tried, {len(found.ruled_out)} ruled out beforehand"
        what, hint = explained(closest, self.result.limits, missing, tried)
        raise NothingFits(what, hint=hint or every_trial(self.result.output))

    def limits(self, trial: Trial) -> list[Limit]:
        """Return every bound as a number, with what the trial has."""
        return [self._limit(bound, trial) for bound in self.settings.bounds]

    def _limit(self, bound: Bound, trial: Trial) -> Limit:
        metric = next(one.metric for one in self.plan.metrics if one.name == bound.measurement.metric)
        value = bound.measurement.of(trial.metrics)
        return Limit(
            measurement=str(bound.measurement), text=bound.text, limit=bound.limit(trial.references), value=value,
            gap=None if value is None else bound.gap(value, trial.references),
            unit=metric.unit_of(bound.measurement.key),
        )  # fmt: skip


def every_trial(output: Path) -> str:
    """Return the command that lists what was tried."""
    return f"`{shlex.join(['picual', 'report', str(output)])}`"


def _brief(trial: Trial) -> dict[str, Any]:
    return {name: next((one for one in values.values() if isinstance(one, int | float)), None)
            for name, values in trial.metrics.items()}  # fmt: skip
