"""Candidates of a search: what is known of one beforehand, and what becomes of it when it is made and measured.

What is cheap is measured first; as soon as a bound is out of reach the rest is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from picual.engine.limits import (
    NothingToKeep,
    forecast_violation,
    key_of,
    require_reference,
    size_forecast,
    why_left,
)
from picual.engine.results import Stage
from picual.engine.stages import Made, by_name, stages_of
from picual.engine.work import Work
from picual.errors import EnvironmentFault, Interrupted, JobLost, NotVerified, PicualError, StoreError
from picual.plan import Plan, PlannedMetric, variant
from picual.plan.obstacles import shortages
from picual.search.goals import Bound, References, Values
from picual.search.parameters import Candidate
from picual.search.samplers.base import Outlook, digest_of
from picual.search.samplers.pass_by_pass import step_of
from picual.search.settings import Settings
from picual.search.trial import State, Trial

SMALL_SPACE = 256  # candidates whose plans are all kept: some samplers look at each of them every time
MEASURING = 15.0  # seconds, roughly, that measuring a candidate takes
NOTHING: References = {}  # measured of other models: one value for all trials
Done = TypeVar("Done")


class Candidates:
    """Turns candidates of one search into models, and these into numbers.

    Attributes:
        baseline: What was measured of the input model, by metric.
        broken: Keys of steps that did not pass verification.
        made: Keys that finished trials have made.
    """

    def __init__(self, work: Work, plan: Plan, source: Stage) -> None:
        assert plan.search is not None
        self.work, self.plan, self.source = work, plan, source
        self.settings: Settings = plan.search
        self.store = work.store
        self.baseline: Values = {}
        self.broken, self.made = set[str](), set[str]()
        self._plans: dict[str, Plan] = {}  # of the last candidates: one is asked for several times in a trial
        self._plans_kept = max(len(work.hosts) + 8, min(plan.space.size or 0, SMALL_SPACE))

    def plan_of(self, candidate: Candidate) -> Plan:
        """Return the plan of a candidate."""
        key = digest_of(candidate)
        if (known := self._plans.get(key)) is not None:
            return known
        made = variant(self.plan, candidate, self.store, self.work.digests)
        if len(self._plans) >= self._plans_kept:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = made
        return made

    def outlook(self, candidate: Candidate) -> Outlook:
        """Return what is known of a candidate before it is tried."""
        with self.work.desk.taken():
            return self._outlook(candidate)

    def _outlook(self, candidate: Candidate) -> Outlook:
        plan = self.plan_of(candidate)
        cost = sum(
            step.forecast.seconds if step.forecast is not None else 1.0
            for step in plan.steps
            if step.key not in self.made
        )
        short = shortages(plan, plan.steps)
        size = size_forecast(plan)
        violations = {}
        if size is not None:
            for bound in self.settings.bounds:
                if self._is_size(bound):
                    violations[key_of(bound)] = forecast_violation(bound, size, {"baseline": self.baseline})
        return Outlook(cost=cost + MEASURING, violations=violations, obstacle=short[0].what if short else "")

    def _is_size(self, bound: Bound) -> bool:
        metric = next(one.metric for one in self.plan.metrics if one.name == bound.measurement.metric)
        return metric.name == "size" and bound.measurement.key == "size_mb"

    def attempt(self, number: int, candidate: Candidate) -> Trial:
        """Make and measure one candidate; what goes wrong with it is its result."""
        with self.work.desk.taken():
            return self._attempt(number, candidate)

    def _attempt(self, number: int, candidate: Candidate) -> Trial:
        started = time.monotonic()
        self.work.events.emit(
            "trial", status="start", number=number, of=self.settings.trials, candidate=dict(candidate)
        )
        plan = self.plan_of(candidate)
        trial = Trial(
            candidate=dict(candidate), state="complete", keys=tuple(step.key or "" for step in plan.steps)
        )
        outlook = self.outlook(candidate)
        trial = self.ruled_out(trial, plan, outlook) if outlook.hopeless else self._tried(trial, plan)
        return replace(trial, number=number, seconds=round(time.monotonic() - started, 3))

    def _tried(self, trial: Trial, plan: Plan) -> Trial:
        try:
            if broken := [step.name for step in plan.steps if step.key in self.broken]:
                raise NotVerified(f"step `{broken[0]}` did not pass verification in an earlier trial")
            ran, values, reference, why = patient(lambda: self._made_and_measured(plan))
        except (Interrupted, StoreError, NothingToKeep):
            raise
        except PicualError as error:
            may_pass = isinstance(error, EnvironmentFault | JobLost)
            return replace(trial, state="failed", why=f"{type(error).__name__}: {error.what}", may_pass=may_pass)
        state: State = "dropped" if why else "complete"
        measured = {stage: taken for stage, taken in reference.items() if taken} or NOTHING
        return self._judged(
            replace(trial, state=state, why=why, ran=ran, metrics=values, references=measured), reference
        )

    def _made_and_measured(self, plan: Plan) -> tuple[int, dict[str, Any], References, str]:
        made = self.make(plan)
        ran = sum(not one.done.cached for one in made)
        return ran, *self.measure(plan, stages_of(plan, self.source, made))

    def ruled_out(self, trial: Trial, plan: Plan, outlook: Outlook) -> Trial:
        """Return the trial of a candidate that is not worth making."""
        size = size_forecast(plan)
        broken = [bound for bound in self.settings.bounds if outlook.violations.get(key_of(bound), 0) > 0]
        why = outlook.obstacle or f"size forecast {size:.1f} MB, to be {broken[0].text}"
        metrics = {} if size is None else {"size": {"size_mb": round(size, 3), "forecast": True}}
        violations = {key_of(bound): outlook.violations.get(key_of(bound)) for bound in self.settings.bounds}
        return replace(trial, state="dropped", why=why, metrics=metrics, violations=violations)

    def _judged(self, trial: Trial, reference: References) -> Trial:
        """Return the trial with its losses and violations."""
        violations: dict[str, float | None] = {}
        for bound in self.settings.bounds:
            violation = bound.violation(trial.metrics, reference)
            violations[key_of(bound)] = None if violation == float("inf") else violation
        losses = tuple(objective.loss(trial.metrics) for objective in self.settings.objectives)
        missing = [str(one) for one in self.settings.measurements if one.of(trial.metrics) is None]
        why = trial.why
        if trial.state == "complete" and missing:
            why = f"no value for {', '.join(missing)}"
        return replace(trial, losses=losses, violations=violations, why=why)

    def make(self, plan: Plan) -> list[Made]:
        """Run the steps of a candidate. Nothing is verified yet."""
        made: list[Made] = []
        for step in plan.steps:
            given = made[-1].stage if made else self.source
            done, stage = self.work.step(plan, step, given)
            made.append(Made(step, done, given, stage))
        return made

    def measure(self, plan: Plan, stages: list[Stage]) -> tuple[dict[str, Any], References, str]:
        """Take what the goals ask for, what is cheap first; return values, references and why it was left."""
        values: dict[str, Any] = {}
        reference: dict[str, Values] = {"baseline": self.baseline}
        asked = {one.metric for one in self.settings.measurements} | {"size"}
        metrics = sorted((one for one in plan.metrics if one.name in asked), key=lambda one: one.metric.cost)
        self.work.gather.values(plan, [(one, stages[-1]) for one in metrics], by_name(plan, stages))
        for planned in metrics:
            bounds = [bound for bound in self.settings.bounds if bound.measurement.metric == planned.name]
            if any(bound.reference == "unquantized" for bound in bounds):
                taken = self._value(plan, planned, by_name(plan, stages)["unquantized"], stages)
                reference["unquantized"] = {**reference.get("unquantized", {}), planned.name: taken}
            require_reference(bounds, reference, shared=self._shares_unquantized(plan))
            probe = planned.metric.probe() if bounds else None
            for metric in [probe, planned.metric] if probe is not None else [planned.metric]:
                taken = self._value(plan, replace(planned, metric=metric), stages[-1], stages)
                values[planned.name] = {**taken, "probe": True} if metric is probe else taken
                out = next((bound for bound in bounds if bound.is_out_of_reach(values, reference)), None)
                if out is not None:
                    left = [one.name for one in metrics[metrics.index(planned) + 1 :]]
                    return values, reference, why_left(out, values, reference, left, probed=metric is probe)
        return values, reference, ""

    def _shares_unquantized(self, plan: Plan) -> bool:
        """Say whether every candidate is compared with the same model: nothing before it is searched."""
        before = {step.name for step in plan.steps[: plan.unquantized]}
        return not any(step_of(parameter) in before for parameter in plan.space.parameters)

    def _value(self, plan: Plan, planned: PlannedMetric, stage: Stage, stages: list[Stage]) -> dict[str, Any]:
        return self.work.value(plan, planned, stage, known=by_name(plan, stages))


def patient(work: Callable[[], Done]) -> Done:
    """Do a piece of work; a worker that was lost gets a second chance, which goes on from its checkpoint."""
    try:
        return work()
    except JobLost:
        return work()
