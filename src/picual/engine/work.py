"""Pieces of work, each one job with one key: the input model, a pass, a check of its promise, a measurement.

What is in the store is not done again, so a run that was killed anywhere continues when the same command is given.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual import _atomic, fingerprint
from picual.engine.events import EventLog
from picual.engine.gathering import Gathering
from picual.engine.hosting import Hosting
from picual.engine.jobs import Jobs, file_name
from picual.engine.metrics import Reference
from picual.engine.piece import Piece
from picual.engine.pieces import check_piece, metric_piece, pass_piece, preparation
from picual.engine.results import Stage, StepResult
from picual.errors import NotVerified, PicualError
from picual.metrics.base import MetricContext
from picual.models import model_from_wire
from picual.passes.base import Promise
from picual.plan import Plan, PlannedMetric, PlannedStep
from picual.sources.digests import DigestMemory
from picual.store.local import Entry, Store, size_of
from picual.store.manifest import Manifest


class Work:
    """What a run does its work with."""

    def __init__(
        self, store: Store, hosts: Hosting, digests: DigestMemory, events: EventLog, evidence: Path, *,
        offline: bool = False, fresh: bool = False,
    ) -> None:  # fmt: skip
        self.store, self.events, self.folder = store, events, evidence
        self.offline, self.fresh = offline, fresh
        self.jobs = Jobs(store, hosts, events, evidence / "logs", offline=offline, fresh=fresh)
        self._began = time.monotonic()
        self.hosts, self.digests, self.desk = hosts, digests, self.jobs.desk
        self.gather = Gathering(self.jobs, digests)
        self._hashed = set[str]()  # keys whose files were hashed in this run

    @property
    def worked(self) -> bool:
        """Whether any job ran; False: everything was there already."""
        return self.jobs.worked

    # -- the input model ------------------------------------------------------------------------------

    def source(self, plan: Plan) -> Stage:
        """Return the input model, fetched if need be."""
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
            piece = Piece("fetch", f"fetch {spec.uri}", "fetch", plan.source_ingredients, payload)
            entry, _ = self.jobs.once(plan, piece)
            model = model_from_wire(entry.manifest.value["model"], entry.content)
        assert model is not None
        return Stage(name="baseline", key=key, model=model)

    # -- a pass and its gate --------------------------------------------------------------------------

    def step(self, plan: Plan, step: PlannedStep, given: Stage) -> tuple[StepResult, Stage]:
        """Run one pass, without its checks."""
        assert step.ingredients is not None
        assert step.key is not None
        number, count, start = step.number, len(plan.steps), time.monotonic() - self._began
        self.events.emit("step", status="start", step=step.name, number=number, of=count, cached=step.cached)
        try:
            if self.fresh or not step.cached:
                self._verify_input(given)
            self.gather.steps(plan, step, given)
            prepared, before = None, None
            if not self.jobs.is_settled(step.key):
                prepared, before = self._prepared(plan, step, given)
            made_before = None if prepared is None else str(prepared.content)
            entry, ran = self.jobs.once(plan, pass_piece(plan, step, given, made_before))
        except PicualError as error:
            self.events.emit(
                "step", status="failed", step=step.name, number=number, of=count, error=error.to_wire()
            )
            raise error.located(f"{step.place}, step {number} `{step.name}`") from error
        if ran:  # hashed when it was published
            self._hashed.add(step.key)
        manifest = entry.manifest
        done = StepResult(
            name=step.name, pass_name=step.a_pass.name, key=step.key, cached=not ran,
            start=start if ran else None, seconds=manifest.seconds + (before.seconds if before else 0),
            peak_rss=max(manifest.peak_rss, before.peak_rss if before else 0),
            peak_anonymous=max(manifest.peak_anonymous, before.peak_anonymous if before else 0),
            journal=list(manifest.value["journal"]), metrics=dict(manifest.value["metrics"]),
            curves=dict(manifest.value.get("curves", {})), made_in=dict(manifest.made_in),
        )  # fmt: skip
        made = Stage(
            name=step.name, key=step.key,
            model=model_from_wire(manifest.value["model"], entry.content, given.model),
        )  # fmt: skip
        return done, made

    def _prepared(self, plan: Plan, step: PlannedStep, given: Stage) -> tuple[Entry | None, Manifest | None]:
        """Return what the pass shares among models, made if need be, and what making it took in this run."""
        piece = preparation(plan, step, given)
        if piece is None:
            return None, None
        entry, ran = self.jobs.once(plan, piece)
        if not ran:
            self._verify(piece.key, entry)
        return entry, entry.manifest if ran else None

    def verify(self, plan: Plan, step: PlannedStep, done: StepResult, given: Stage, made: Stage) -> None:
        """Check what a pass promises, and put the checks into ``done``.

        Raises:
            NotVerified: A promise is not kept; the entry is set aside.
        """
        done.checks = []
        for promise in step.a_pass.promises():
            done.checks += self._check(plan, promise, step, given, made)
        self.events.emit(
            "step", status="done", step=step.name, number=step.number, of=len(plan.steps), cached=done.cached,
            seconds=round(done.seconds, 2), metrics=done.metrics, checks=len(done.checks),
        )  # fmt: skip

    def _verify_input(self, given: Stage) -> None:
        """Hash what a step is about to read, if it comes from the store and the step will really run."""
        entry = self.store.find(given.key)
        if entry is not None:
            self._verify(given.key, entry)

    def _verify(self, key: str, entry: Entry) -> None:
        """Hash the files of a key's entry, once a run."""
        if key not in self._hashed:
            with self.desk.left(size=size_of(entry)):
                self.store.verify(entry)
            self._hashed.add(key)

    def _check(
        self, plan: Plan, promise: Promise, step: PlannedStep, given: Stage, made: Stage
    ) -> list[dict[str, Any]]:
        name = type(promise).__name__
        entry, _ = self.jobs.once(plan, check_piece(plan, promise, step, given, made))
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
                hint=f"the checks are in {self.folder / 'evidence'}",
            )
        return checks

    def _keep_evidence(self, step: PlannedStep, checks: list[dict[str, Any]]) -> None:
        folder = self.folder / "evidence"
        folder.mkdir(parents=True, exist_ok=True)
        _atomic.write_json(folder / f"{step.number:02}-{step.name}.json", {"step": step.name, "checks": checks})

    # -- measurements ---------------------------------------------------------------------------------

    def value(
        self, plan: Plan, planned: PlannedMetric, stage: Stage, *, known: Reference, keep: bool = False
    ) -> dict[str, Any]:
        """Measure one model; a timing is taken in turn with that of the input model.

        Args:
            plan: Whose target, threads and seed hold.
            planned: The metric.
            stage: What is measured.
            known: Stages by name, which a metric may compare with.
            keep: Put what the metric wrote, such as predictions, beside the logs, and its paths into ``files``.
        """
        metric = planned.metric
        if metric.of_file_sizes:  # a job, here or elsewhere, would take a thousand times as long
            taken = metric.measure(stage.model, MetricContext(target=plan.recipe.target))
            self._tell_value(planned, stage, taken)
            return taken
        piece = metric_piece(plan, planned, stage, self.digests, known)
        entry, _ = self.jobs.once(plan, piece)
        # The same names in every trial: JSON gives new strings for each.
        values: dict[str, Any] = {sys.intern(name): one for name, one in entry.manifest.value["values"].items()}
        if keep and entry.manifest.files:
            values["files"] = self._keep_files(entry, piece.name)
        self._tell_value(planned, stage, values)
        return values

    def _tell_value(self, planned: PlannedMetric, stage: Stage, values: Mapping[str, Any]) -> None:
        self.events.emit("metric", metric=planned.name, stage=stage.name, value=values.get(planned.metric.key))

    def _keep_files(self, entry: Entry, label: str) -> list[str]:
        place = self.folder / "metrics" / file_name(label)
        _atomic.remove(place)
        shutil.copytree(entry.content, place)
        return [str(place / name) for name in sorted(entry.manifest.files)]
