"""What is done as one job where every job takes minutes to begin: steps with their checks, and measurements."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from picual.engine.jobs import Jobs
from picual.engine.metrics import Reference
from picual.engine.piece import Piece
from picual.engine.pieces import check_piece, metric_piece, pass_piece, preparation
from picual.engine.results import Stage
from picual.engine.stages import Made
from picual.errors import PicualError
from picual.executors.chain import Promised
from picual.plan import Plan, PlannedMetric, PlannedStep
from picual.sources.digests import DigestMemory


class Gathering:
    """Makes one job of many pieces, for hosts that ask for it; elsewhere it does nothing.

    What such a job makes is in the store afterwards, piece by piece, where it is found as if each had been a job.
    """

    def __init__(self, jobs: Jobs, digests: DigestMemory) -> None:
        self.jobs, self.digests = jobs, digests

    def steps(self, plan: Plan, first: PlannedStep, given: Stage) -> None:
        """Do a step and those after it on the same host, each with what it prepares.

        Each with its checks, too, but for a search, which checks only what leads.

        Raises:
            PicualError: The job could not be done; what is wrong with a piece is raised when it is asked for.
        """
        self._do(plan, lambda: self._steps(plan, first, given))

    def _steps(self, plan: Plan, first: PlannedStep, given: Stage) -> list[Piece]:
        pieces: list[Piece] = []
        for step in plan.steps[first.number - 1 :]:
            assert step.key is not None
            together = step.site.host.gathers and step.site is first.site
            if not together or self.jobs.is_settled(step.key):
                break
            pieces += self._with_preparation(plan, step, given, len(pieces))
            made = Stage(name=step.name, key=step.key, model=Promised(number=len(pieces) - 1))
            if plan.search is None and plan.measured_at is step.site:
                checks = [check_piece(plan, promise, step, given, made) for promise in step.a_pass.promises()]
                pieces += self._left(checks)
            given = made
        return pieces

    def _with_preparation(self, plan: Plan, step: PlannedStep, given: Stage, number: int) -> list[Piece]:
        """Return a pass as a link of that number, after what it prepares where that is still to be made."""
        # What a model not yet made will share nobody knows: the pass makes it by itself.
        before = None if isinstance(given.model, Promised) else preparation(plan, step, given)
        if before is None:
            return [pass_piece(plan, step, given)]
        if self.jobs.is_done(before.key):
            entry = self.jobs.store.find(before.key)
            return [pass_piece(plan, step, given, None if entry is None else str(entry.content))]
        return [before, pass_piece(plan, step, given, {"out_of": number})]

    def checks(self, plan: Plan, made: Iterable[Made]) -> None:
        """Check what steps promise of what they made."""
        if plan.measured_at.host.gathers:
            asked = [check_piece(plan, promise, one.step, one.given, one.stage)
                     for one in made for promise in one.step.a_pass.promises()]  # fmt: skip
            self._do(plan, lambda: self._left(asked))

    def values(self, plan: Plan, wanted: Iterable[tuple[PlannedMetric, Stage]], known: Reference) -> None:
        """Take measurements; one that cannot even be asked for is left to say so in its turn."""
        if not plan.measured_at.host.gathers:
            return
        asked = []
        for planned, stage in wanted:
            with contextlib.suppress(PicualError):
                if not planned.metric.of_file_sizes:
                    asked.append(metric_piece(plan, planned, stage, self.digests, known))
        while len(self._left(asked)) > 1:  # one that fails stops a job, and the others are another
            self._do(plan, lambda: self._left(asked))

    def _left(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Return those that are still to be done, each once."""
        return list({one.key: one for one in pieces if not self.jobs.is_settled(one.key)}.values())

    def _do(self, plan: Plan, left: Callable[[], Sequence[Piece]]) -> None:
        """Do what is left as one job; a single piece is a job anyway. What others do meanwhile is left no more."""
        while len(pieces := left()) > 1 and not self.jobs.together(plan, pieces):
            pass
