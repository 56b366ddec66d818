"""A plan, a store and executors become a verified model in the output folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.engine import output as output_folder
from picual.engine.events import EventLog, Listener
from picual.engine.hosting import Hosting
from picual.engine.metrics import wanted
from picual.engine.registering import register
from picual.engine.results import RunResult, Stage
from picual.engine.search import Search
from picual.engine.stages import Made, by_name, stages_of
from picual.engine.work import Work
from picual.errors import Interrupted, NotMeasured, PicualError, StoreError
from picual.executors.base import Executor
from picual.plan import Plan, memory_allowed
from picual.sources.digests import DigestMemory
from picual.store.local import Store


@dataclass(frozen=True)
class Engine:
    """What a run works with. ``executor`` makes one; a search that tries several candidates at once makes more."""

    store: Store
    executor: Callable[[], Executor]
    listeners: tuple[Listener, ...] = ()
    offline: bool = False
    fresh: bool = False  # do every step, check and measurement again, whatever the store holds

    def run(self, plan: Plan, output: Path) -> RunResult:
        """Do what the plan says and place the model in ``output/model``.

        An expected error ends up in the result, so that the report can tell what was reached.

        Raises:
            Busy: Another run writes to the same folder.
        """
        with (
            self.store.lock(fingerprint.digest(str(output)), what=f"the output folder {output}"),
            self._work(plan, output / "run", slots=slots_of(plan)) as work,
        ):
            return self._go(work, plan, output)

    def fetch(self, plan: Plan) -> Stage:
        """Bring the plan's input model into the store, and nothing else.

        Raises:
            PicualError: What the source says is wrong.
        """
        with self._work(plan, self.store.root / "fetch" / "run") as work:
            return work.source(plan)

    def measure(self, plan: Plan) -> dict[str, dict[str, Any]]:
        """Take the plan's metrics of its input model, and nothing else; return the values by metric.

        Raises:
            PicualError: What the source or a metric says is wrong.
        """
        with self._work(plan, self.store.root / "evaluate" / "run") as work:
            stage = work.source(plan)
            return {one.name: work.value(plan, one, stage, known={}, keep=True) for one in plan.metrics}

    def _go(self, work: Work, plan: Plan, output: Path) -> RunResult:
        started = time.monotonic()
        result = RunResult(output=output, plan=plan)
        work.events.emit("run", status="start", steps=[step.name for step in plan.steps])
        for note in plan.warnings:
            work.events.emit("warning", path=note.path, text=note.text)
        try:
            waiting = [step.site for step in plan.steps if self.fresh or not step.cached]
            work.hosts.reach([*waiting, *([plan.measured_at] if waiting else [])])
            source = work.source(plan)
            if plan.search is None:
                _straight(work, plan, source, result)
                output_folder.place(result, self.store)
            else:
                Search(work, plan, source, result, fresh=self.fresh).go()
            take_metrics(work, result)
            register(work, result)
        except PicualError as error:
            result.error = error
        result.worked = result.worked or work.worked
        result.seconds = time.monotonic() - started
        work.events.emit("run", status=result.verdict, seconds=round(result.seconds, 2))
        return result

    @contextlib.contextmanager
    def _work(self, plan: Plan, folder: Path, *, slots: int = 1) -> Iterator[Work]:
        events = EventLog(folder / "events.jsonl", self.listeners)
        digests = DigestMemory(self.store.root / "digests.jsonl")
        hosts = Hosting(self.store, digests, events, self.executor, slots=slots, offline=self.offline)
        work = Work(self.store, hosts, digests, events, folder, offline=self.offline, fresh=self.fresh)
        try:
            yield work
        finally:
            hosts.close()
            events.close()


def _straight(work: Work, plan: Plan, source: Stage, result: RunResult) -> None:
    """Run the steps one after the other, each checked before the next."""
    made: list[Made] = []
    result.stages = [source]
    for step in plan.steps:
        given = made[-1].stage if made else source
        done, stage = work.step(plan, step, given)
        result.steps.append(done)
        work.verify(plan, step, done, given, stage)
        made.append(Made(step, done, given, stage))
        result.stages = stages_of(plan, source, made)


def take_metrics(work: Work, result: RunResult) -> None:
    """Take every metric of every stage of the result; one that fails keeps no other from being taken.

    Raises:
        NotMeasured: Which failed.
    """
    plan, stages = result.plan, result.stages
    known = by_name(plan, stages)
    asked = [(planned, stage) for planned in plan.metrics for stage in wanted(planned.metric, stages)]
    try:
        work.gather.values(plan, asked, known)
    except (Interrupted, StoreError):
        raise
    except PicualError as error:
        raise _not_measured(error.what, error) from error
    failed: list[tuple[str, PicualError]] = []
    for planned in plan.metrics:
        of_model = planned.metric.scope == "model"
        values = result.metrics.setdefault(planned.name, {})
        for stage in wanted(planned.metric, stages):
            name = stage.name if of_model else "data"
            try:
                values[name] = work.value(plan, planned, stage, known=known, keep=True)
            except (Interrupted, StoreError):
                raise
            except PicualError as error:
                failed.append((f"`{planned.name}` of {name}", error))
    if failed:
        told = "; ".join(f"{which}: {error.what}" for which, error in failed)
        raise _not_measured(told, failed[0][1])


def _not_measured(told: str, error: PicualError) -> NotMeasured:
    what = f"the model is verified and in its place, but not measured: {told}"
    return NotMeasured(what, where=error.where, hint=error.hint)


def slots_of(plan: Plan) -> int:
    """Return how many candidates a search tries at a time: as many as cores and memory have room for."""
    if plan.search is None:
        return 1
    sites = {step.site.name: step.site for step in plan.steps}
    if any(site.host.elsewhere for site in sites.values()):
        memory = max((step.forecast.memory for step in plan.steps if step.forecast is not None), default=0)
        away = [site for site in sites.values() if site.host.elsewhere]
        room = min(site.host.at_once(site.threads, memory) for site in away)
        return max(1, min(plan.search.parallel or room, plan.search.trials))
    room = plan.machine.cores // max(1, plan.threads)
    # Of all steps, as another candidate may have to run what this one finds in the store.
    memory = max((step.forecast.memory for step in plan.steps if step.forecast is not None), default=0)
    if memory:
        room = min(room, memory_allowed(plan.machine) // memory)
    return max(1, min(plan.search.parallel or room, plan.search.trials))
