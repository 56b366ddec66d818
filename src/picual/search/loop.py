"""The loop of a search: ask, try, tell, until the budget is used or nothing is left to try."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from picual.search import ranking
from picual.search.parameters import Candidate
from picual.search.samplers.base import Outlook, Sampler
from picual.search.study import Study
from picual.search.trial import Trial

EXHAUSTED = "every candidate was tried, or ruled out beforehand"


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One search under way.

    Attributes:
        study: Its record, which may hold trials of an earlier run.
        sampler: Says what to try.
        outlook: Tells what is known of a candidate before it is tried.
        attempt: Tries a candidate; must not raise for what is the candidate's fault.
        settle: Called with each finished trial, in the calling thread; returns it as it is to be recorded.
        parallel: Trials at a time.
    """

    study: Study
    sampler: Sampler
    outlook: Callable[[Candidate], Outlook]
    attempt: Callable[[int, Candidate], Trial]
    settle: Callable[[Trial], Trial] = lambda trial: trial
    parallel: int = 1

    def go(self) -> str:
        """Try candidates; return why the search ended."""
        started = time.monotonic()
        if self.parallel == 1:  # in this thread, where Ctrl-C arrives
            while not (why := self._stop(started)):
                asked = self.study.ask(self.sampler, self.outlook)
                if asked is None:
                    return EXHAUSTED
                self.study.tell(self.settle(replace(self.attempt(*asked), number=asked[0])))
            return why
        under_way: dict[Future[Trial], int] = {}
        with ThreadPoolExecutor(self.parallel) as pool:
            while True:
                why = self._stop(started)
                while not why and len(under_way) < self.parallel:
                    asked = self.study.ask(self.sampler, self.outlook)
                    if asked is None:
                        why = EXHAUSTED
                        break
                    under_way[pool.submit(self.attempt, *asked)] = asked[0]
                    why = self._stop(started)
                if not under_way:
                    return why
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: under_way[one]):
                    trial = replace(future.result(), number=under_way.pop(future))
                    self.study.tell(self.settle(trial))

    def _stop(self, started: float) -> str:
        settings = self.study.settings
        trials = self.study.trials
        if len(trials) + self.study.under_way >= settings.trials:
            return f"the budget of {settings.trials} trials is used"
        if settings.timeout is not None and time.monotonic() - started >= settings.timeout:
            return f"the time of {settings.timeout:g} s is up"
        if settings.stop_when_met and ranking.best(trials, settings.objectives)[0] is not None:
            return "a candidate keeps all bounds"
        return ""
