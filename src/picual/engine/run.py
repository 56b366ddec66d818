"""A plan, a store and an executor become a verified model in the output folder.

Each piece of work, be it a pass, a check of its promise or a metric, is one job with one key. What is in
the store is not done again, so a run that was killed anywhere continues when the same command is given.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _atomic, fingerprint
from picual.engine import output as output_folder
from picual.engine.events import EventLog, Listener
from picual.engine.metrics import metric_ingredients, wanted
from picual.engine.results import RunResult, Stage, StepResult
from picual.engine.verification import GATE_VERSION
from picual.errors import NotVerified, PicualError, from_wire
from picual.executors.base import Executor
from picual.executors.job import Job, Kind
from picual.models import model_from_wire
from picual.passes.base import Promise
from picual.plan import FORMAT, Plan, PlannedMetric, PlannedStep, memory_allowed
from picual.sources.digests import DigestMemory
from picual.space import values_of
from picual.store.local import Entry, Store


@dataclass(frozen=True)
class Engine:
    """What a run works with."""

    store: Store
    executor: Executor
    listeners: tuple[Listener, ...] = ()
    offline: bool = False
    fresh: bool = False  # do every step, check and measurement again, whatever the store holds

    def run(self, plan: Plan, output: Path) -> RunResult:
        """Do what the plan says and place the model in ``output/model``.

        An expected error ends up in the result, so that the report can tell what was reached.

        Raises:
            Busy: Another run writes to the same folder.
        """
        with self.store.lock(fingerprint.digest(str(output)), what=f"the output folder {output}"):
            events = EventLog(output / "run" / "events.jsonl", self.listeners)
            try:
                return _Run(self, plan, output, events).go()
            finally:
                events.close()

    def fetch(self, plan: Plan) -> Stage:
        """Bring the plan's input model into the store, and nothing else.

        Raises:
            PicualError: What the source says is wrong.
        """
        with self._without_output(plan, "fetch") as a_run:
            return a_run.source()

    def measure(self, plan: Plan) -> dict[str, dict[str, Any]]:
        """Take the plan's metrics of its input model, and nothing else; return the values by metric.

        Raises:
            PicualError: What the source or a metric says is wrong.
        """
        with self._without_output(plan, "evaluate") as a_run:
            a_run.source()
            a_run.measure()
            return {name: next(iter(stages.values())) for name, stages in a_run.result.metrics.items()}

    @contextlib.contextmanager
    def _without_output(self, plan: Plan, what: str) -> Iterator[_Run]:
        place = self.store.root / what
        events = EventLog(place / "run" / "events.jsonl", self.listeners)
        try:
            events.emit("run", status="start", steps=[])
            yield _Run(self, plan, place, events)
        finally:
            self.executor.close()
            events.emit("run", status="end")
            events.close()


class _Run:
    """One run under way."""

    def __init__(self, engine: Engine, plan: Plan, output: Path, events: EventLog) -> None:
        self.store, self.executor, self.offline = engine.store, engine.executor, engine.offline
        self.plan, self.events = plan, events
        self.fresh, self.again = engine.fresh, set[str]()  # keys that were done again in this run
        self.digests = DigestMemory(engine.store.root / "digests.jsonl")
        self.result = RunResult(output=output)
        self.hashed: set[str] = set()  # keys whose files were hashed in this run
        self.memory_limit = memory_allowed(plan.machine)

    def go(self) -> RunResult:
        started = time.monotonic()
        self.events.emit("run", status="start", steps=[step.name for step in self.plan.steps])
        try:
            self._steps(self.source())
            self.measure()
            output_folder.place(self.result, self.plan, self.store)
        except PicualError as error:
            self.result.error = error
        finally:
            self.executor.close()
        self.result.seconds = time.monotonic() - started
        self.events.emit("run", status=self.result.verdict, seconds=round(self.result.seconds, 2))
        return self.result

    # -- the input model ------------------------------------------------------------------------------

    def source(self) -> Stage:
        """Return the input model, fetched if need be."""
        plan = self.plan
        if plan.source_ingredients is None:
            raise ValueError("a run needs a plan made with hash_source=True")
        key = fingerprint.digest(plan.source_ingredients)
        model = plan.model
        if plan.source.fetches:
            spec = plan.recipe.model
            payload = {
                "source": {
                    "uri": spec.uri, "revision": spec.revision, "format": spec.format, "adapter": spec.adapter,
                    "trust_remote_code": spec.trust_remote_code, "options": dict(spec.options),
                    "folder": str(Path(plan.recipe.folder).absolute()), "offline": self.offline,
                    "trust": plan.recipe.trust,
                }
            }  # fmt: skip
            entry, _ = self._once("fetch", f"fetch {spec.uri}", "fetch", plan.source_ingredients, payload)
            model = model_from_wire(entry.manifest.value["model"], entry.content)
        assert model is not None
        stage = Stage(name="baseline", key=key, model=model)
        self.result.stages.append(stage)
        return stage

    # -- the passes and their gate --------------------------------------------------------------------

    def _steps(self, stage: Stage) -> None:
        plan = self.plan
        for index, step in enumerate(plan.steps):
            if index == plan.unquantized and index > 0:
                self.result.stages.append(Stage(name="unquantized", key=stage.key, model=stage.model))
            stage = self._step(step, stage)
        if plan.steps:
            self.result.stages.append(Stage(name="final", key=stage.key, model=stage.model))

    def _step(self, step: PlannedStep, given: Stage) -> Stage:
        assert step.ingredients is not None
        assert step.key is not None
        payload = {
            "pass": step.a_pass.name,
            "fields": values_of(step.a_pass),
            "model": given.model.to_wire(),
            "target": self.plan.recipe.target.to_wire(),
            "data": {name: config.to_wire() for name, config in step.data.items()},
        }
        number, count = step.number, len(self.plan.steps)
        self.events.emit("step", status="start", step=step.name, number=number, of=count, cached=step.cached)
        try:
            if self.fresh or not step.cached:
                self._verify_input(given)
            entry, ran = self._once("pass", step.name, step.label, step.ingredients, payload)
        except PicualError as error:
            self.events.emit(
                "step", status="failed", step=step.name, number=number, of=count, error=error.to_wire()
            )
            raise error.located(f"{step.place}, step {number} `{step.name}`") from error
        manifest = entry.manifest
        done = StepResult(
            name=step.name, pass_name=step.a_pass.name, key=step.key, cached=not ran, seconds=manifest.seconds,
            peak_rss=manifest.peak_rss, peak_anonymous=manifest.peak_anonymous,
            journal=list(manifest.value["journal"]), metrics=dict(manifest.value["metrics"]),
        )  # fmt: skip
        self.result.steps.append(done)
        made = Stage(
            name=step.name, key=step.key,
            model=model_from_wire(manifest.value["model"], entry.content, given.model),
        )  # fmt: skip
        for promise in step.a_pass.promises():
            done.checks += self._check(promise, step, given, made)
        self.events.emit(
            "step", status="done", step=step.name, number=number, of=count, cached=not ran,
            seconds=round(manifest.seconds, 2), metrics=done.metrics, checks=len(done.checks),
        )  # fmt: skip
        return made

    def _verify_input(self, given: Stage) -> None:
        """Hash what a step is about to read, if it comes from the store and the step will really run."""
        entry = self.store.find(given.key)
        if entry is not None and given.key not in self.hashed:
            self.store.verify(entry)
            self.hashed.add(given.key)

    def _check(self, promise: Promise, step: PlannedStep, given: Stage, made: Stage) -> list[dict[str, Any]]:
        ingredients = {
            "format": FORMAT, "gate": GATE_VERSION, "promise": promise.to_wire(), "given": given.key,
            "made": made.key, "threads": self.plan.threads, "device": self.plan.machine.device_class,
        }  # fmt: skip
        payload = {"promise": promise.to_wire(), "given": given.model.to_wire(), "made": made.model.to_wire()}
        name = type(promise).__name__
        entry, _ = self._once("verify", f"verify {step.name}: {name}", f"verify {name}", ingredients, payload)
        checks: list[dict[str, Any]] = list(entry.manifest.value["checks"])
        failed = [check for check in checks if not check["passed"]]
        for check in checks:
            self.events.emit("check", step=step.name, promise=name, **check)
        if failed:
            self._keep_evidence(step, checks)
            self.store.set_aside(entry.manifest.key)
            self.store.set_aside(made.key)
            raise NotVerified(
                f"step {step.number} `{step.name}` did not pass verification: "
                + "; ".join(f"{check['name']}: {check['detail']}" for check in failed[:3]),
                where=str(step.place),
                hint=f"the checks are in {self.result.output / 'run' / 'evidence'}",
            )
        return checks

    def _keep_evidence(self, step: PlannedStep, checks: list[dict[str, Any]]) -> None:
        folder = self.result.output / "run" / "evidence"
        folder.mkdir(parents=True, exist_ok=True)
        _atomic.write_json(folder / f"{step.number:02}-{step.name}.json", {"step": step.name, "checks": checks})

    # -- metrics --------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Take every metric of every stage."""
        for planned in self.plan.metrics:
            self.result.metrics[planned.name] = {
                stage.name if planned.metric.scope == "model" else "data": self._value(planned, stage)
                for stage in wanted(planned.metric, self.result.stages)
            }

    def _value(self, planned: PlannedMetric, stage: Stage) -> dict[str, Any]:
        plan = self.plan
        ingredients = metric_ingredients(planned, stage, plan, self.digests)
        payload = {
            "metric": planned.metric.name,
            "fields": values_of(planned.metric),
            "model": stage.model.to_wire() if planned.metric.scope == "model" else None,
            "target": plan.recipe.target.to_wire(),
            "data": {name: config.to_wire() for name, config in planned.data.items()},
        }
        label = f"{planned.name} of {stage.name}" if planned.metric.scope == "model" else planned.name
        entry, _ = self._once("evaluate", label, f"evaluate {planned.metric.name}", ingredients, payload)
        values: dict[str, Any] = dict(entry.manifest.value["values"])
        self.events.emit("metric", metric=planned.name, stage=stage.name, value=values.get(planned.metric.key))
        return values

    # -- one job --------------------------------------------------------------------------------------

    def _once(
        self, kind: Kind, name: str, label: str, ingredients: Mapping[str, Any], payload: Mapping[str, Any]
    ) -> tuple[Entry, bool]:
        """Return the entry of a piece of work, and whether it had to be done."""
        key = fingerprint.digest(ingredients)
        if self.fresh and kind != "fetch":
            self._forget(key)
        entry = self.store.find(key)
        if entry is not None:
            return entry, False
        with self.store.lock(key, what=f"`{name}`"):
            entry = self.store.find(key)  # another run may have finished it while we waited for nothing
            if entry is not None:
                return entry, False
            self.result.worked = True
            return self._do(kind, name, label, ingredients, payload), True

    def _forget(self, key: str) -> None:
        """Set a finished piece of work aside, once a run, and let go of an interrupted one's checkpoints."""
        if key in self.again:
            return
        self.again.add(key)
        if self.store.find(key) is not None:
            self.store.set_aside(key)
        self.store.drop_work(key)

    def _do(
        self, kind: Kind, name: str, label: str, ingredients: Mapping[str, Any], payload: Mapping[str, Any]
    ) -> Entry:
        folder = self.store.work(fingerprint.digest(ingredients))
        _atomic.remove(folder / "out")  # half a result of an interrupted run; its checkpoints are in scratch
        job = Job(
            kind=kind, label=name, payload=payload, seed=self.plan.recipe.seed, threads=self.plan.threads,
            memory_limit=self.memory_limit, offline=self.offline, trust=self.plan.recipe.trust,
            log_level=self.plan.recipe.log_level,
        )  # fmt: skip
        job.write(folder)
        try:
            result = self.executor.run(folder, self.events.forward)
        finally:
            self._keep_log(folder, name)
        if result.error is not None:
            raise from_wire(result.error)
        entry = self.store.publish(
            folder / "out", ingredients=ingredients, label=label, value=result.value, seconds=result.seconds,
            peak_rss=result.peak_rss, peak_anonymous=result.peak_anonymous,
        )  # fmt: skip
        _atomic.remove(folder)
        return entry

    def _keep_log(self, folder: Path, name: str) -> None:
        log = folder / "log.txt"
        if log.exists():
            place = self.result.output / "run" / "logs"
            place.mkdir(parents=True, exist_ok=True)
            readable = "".join(letter if letter.isalnum() else "-" for letter in name)
            shutil.copyfile(log, place / f"{readable}.txt")
