"""The loop of a search: ask, try, tell, until the budget is used or nothing is left to try."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from picual.search import ranking
from picual.search.parameters import Candidate
from picual.search.samplers.base import Outlook, Sampler
from picual.search.study import Study
from picual.search.trial import Trial

EXHAUSTED = "no candidate is left that promises more"


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
        abandon: Stops what is under way, when the search is interrupted.
    """

    study: Study
    sampler: Sampler
    outlook: Callable[[Candidate], Outlook]
    attempt: Callable[[int, Candidate], Trial]
    settle: Callable[[Trial], Trial] = lambda trial: trial
    parallel: int = 1
    abandon: Callable[[], None] = lambda: None

    def go(self) -> str:
        """Try candidates; return why the search ended."""
        started = time.monotonic()
        with ThreadPoolExecutor(self.parallel) as pool:
            while not (why := self._stop(started)):
                batch = self._batch(started)
                if not batch:
                    return EXHAUSTED
                if self.parallel == 1:  # in this thread, where Ctrl-C arrives
                    self._tell(batch[0][0], self.attempt(*batch[0]))
                    continue
                self._together(pool, batch)
        return why

    def _batch(self, started: float) -> list[tuple[int, Candidate]]:
        """Ask for as many as are tried at a time.

        All are asked for before any is tried, so that what is asked does not hang on which of them ends first; and
        after a kill what is left of a batch ends before the next begins, as it would have.
        """
        batch: list[tuple[int, Candidate]] = []
        while not self._stop(started):
            if batch and self._group(self.study.next_number) != self._group(batch[0][0]):
                break
            asked = self.study.ask(self.sampler, self.outlook)
            if asked is None:
                break
            batch.append(asked)
        return batch

    def _group(self, number: int) -> int:
        return (number - 1) // self.parallel

    def _together(self, pool: ThreadPoolExecutor, batch: list[tuple[int, Candidate]]) -> None:
        """Try a batch, and tell how each ended in the order they were asked for, whichever ends first.

        What a sampler learns then does not hang on how fast a machine was: the same seed gives the same search on
        one machine or on many.
        """
        under_way = [(asked[0], pool.submit(self.attempt, *asked)) for asked in batch]
        try:
            for number, done in under_way:
                self._tell(number, done.result())
        except BaseException:
            self.abandon()  # else the others would run to their end first
            raise

    def _tell(self, number: int, trial: Trial) -> None:
        self.study.tell(self.settle(replace(trial, number=number)))

    def _stop(self, started: float) -> str:
        settings = self.study.settings
        if self.study.ended + self.study.under_way >= settings.trials:
            return f"the budget of {settings.trials} trials is used"
        if settings.timeout is not None and time.monotonic() - started >= settings.timeout:
            return f"the time of {settings.timeout:g} s is up"
        if settings.stop_when_met and ranking.best(self.study.trials, settings.objectives)[0] is not None:
            return "a candidate keeps all bounds"
        return ""
