"""The record of a study: Optuna's journal, one file, appended to; what is in it is never tried again.

A trial that was under way when the program was killed is asked for again. The journal's last line may then be half
written; it is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from picual.search.parameters import Candidate, Space
from picual.search.samplers import optuna_terms
from picual.search.samplers.base import History, OptunaSampler, Outlook, Sampler, digest_of
from picual.search.samplers.draws import draw
from picual.search.samplers.optuna_terms import params_of, suggest
from picual.search.settings import Settings
from picual.search.trial import Trial

if TYPE_CHECKING:
    import optuna

    Asked = tuple[optuna.Trial, Candidate]

TRIAL = "trial"  # the attribute that holds our own record of a trial
NUMBER = "number"  # and its place in the study, from when it was asked for


class Study:
    """Trials of one search, on disk."""

    def __init__(self, file: Path, name: str, space: Space, settings: Settings, seed: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        mend(file)
        Path(f"{file}.lock").unlink(missing_ok=True)  # of a killed program: whoever is here holds the folder
        self.space, self.settings, self.seed = space, settings, seed
        self._open: dict[int, Asked] = {}
        self.record = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file), JournalFileOpenLock(str(file)))),
            study_name=name, load_if_exists=True,
            directions=["minimize"] * max(1, len(settings.objectives)),
        )  # fmt: skip
        self._ended = self._recorded()
        self._finished: list[Trial] | None = None  # those of them that are not tried again; None: to be listed
        self._last = max(self._ended, default=0)  # the highest number that was ever given
        self._again: list[tuple[int, Asked]] = []
        self._again = list(self._lost())
        self._again = sorted([*self._again, *self._to_retry()], key=lambda again: again[0])
        self._finished = None
        known = (*(trial.candidate for trial in self._ended.values()), *(lost for _, (_, lost) in self._again))
        self._tried = {digest_of(candidate) for candidate in known}

    @property
    def trials(self) -> Sequence[Trial]:
        """Finished trials, in the order they were asked for; of one that was tried again the last end."""
        if self._finished is None:
            again = {*self._open, *(number for number, _ in self._again)}
            self._finished = [trial for number, trial in self._ended.items() if number not in again]
        return self._finished

    @property
    def ended(self) -> int:
        """How many trials have finished and are not tried again."""
        return len(self.trials)

    def _recorded(self) -> dict[int, Trial]:
        """Read the finished trials, once: whoever is here is the only one that adds to them."""
        found = self.record.get_trials(deepcopy=False)
        wires = [json.loads(one.user_attrs[TRIAL]) for one in found if TRIAL in one.user_attrs]
        return {wire["number"]: Trial.from_wire(wire) for wire in wires}

    @property
    def under_way(self) -> int:
        """How many trials were asked for and have not ended."""
        return len(self._open)

    @property
    def next_number(self) -> int:
        """What the next trial is called: one that was lost keeps its number, and no two ever have the same."""
        return self._again[0][0] if self._again else self._unused()

    def _unused(self) -> int:
        return 1 + max([self._last, *self._open, *(number for number, _ in self._again)])

    def ask(self, sampler: Sampler, outlook: Callable[[Candidate], Outlook]) -> tuple[int, Candidate] | None:
        """Return number and candidate of the next trial, or None when there is none left to try."""
        history = self.history(outlook)
        if self._again:
            number, lost = self._again.pop(0)
            self._open[number] = lost
            return number, lost[1]
        number = self._unused()
        asked = self._asked(sampler, history, number)
        if asked is None:
            return None
        self._open[number] = asked
        self._tried.add(digest_of(asked[1]))
        return number, asked[1]

    def _asked(self, sampler: Sampler, history: History, number: int) -> Asked | None:
        """Ask for a trial and give it its number: from then on it is gone on with after a kill."""
        import optuna

        if isinstance(sampler, OptunaSampler) and (drawn := draw(self.record, sampler, history)) is not None:
            drawn[0].set_user_attr(NUMBER, number)
            return drawn
        candidate = sampler.ask(history)
        if candidate is None:
            return None
        self.record.sampler = optuna.samplers.RandomSampler(seed=history.seed)
        self.record.enqueue_trial(params_of(candidate, self.space), user_attrs={NUMBER: number})
        trial = self.record.ask()
        return trial, suggest(trial, self.space)

    def history(self, outlook: Callable[[Candidate], Outlook]) -> History:
        """Return what a sampler may look at."""
        under_way = [*self._open.values(), *(lost for _, lost in self._again)]
        return History(
            space=self.space, settings=self.settings, trials=self.trials,
            pending=[candidate for _, candidate in under_way],
            asked=self._unused() - 1, seed=self.seed, outlook=outlook, tried=self._tried,
        )  # fmt: skip

    def tell(self, trial: Trial) -> None:
        """Record how a trial ended."""
        asked, _ = self._open.pop(trial.number)
        asked.set_user_attr(TRIAL, json.dumps(trial.to_wire(), separators=(",", ":")))
        in_order = trial.number > self._last or trial.number in self._ended
        self._ended[trial.number] = trial
        if trial.number > self._last and self._finished is not None:
            self._finished.append(trial)
        else:
            self._finished = None
        if not in_order:  # of one that was lost, and asked for again after others
            self._ended = dict(sorted(self._ended.items()))
        self._last = max(self._last, trial.number)
        optuna_terms.tell(self.record, asked, trial)

    def _to_retry(self) -> Iterator[tuple[int, Asked]]:
        """Ask again for what failed of something that may have passed."""
        for trial in self.trials:  # none of those that were lost
            if trial.may_pass:
                self.record.enqueue_trial(params_of(trial.candidate, self.space))
                asked = self.record.ask()
                candidate = suggest(asked, self.space)
                asked.set_user_attr(NUMBER, trial.number)
                yield trial.number, (asked, candidate)

    def _lost(self) -> Iterator[tuple[int, Asked]]:
        """Return what was under way when the program ended, by number.

        What has no number yet was drawn, but not handed out: the sampler comes to it again.
        """
        import optuna
        from optuna.trial import TrialState

        for trial in self.record.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                self.record.ask()  # makes it a running one
            if trial.state in {TrialState.RUNNING, TrialState.WAITING}:
                again = optuna.Trial(self.record, trial._trial_id)
                if NUMBER in trial.user_attrs:
                    yield trial.user_attrs[NUMBER], (again, suggest(again, self.space))
                else:
                    self.record.tell(again, state=TrialState.FAIL)


def mend(file: Path) -> None:
    """Cut off a last line that was half written when the program was killed: the next would be glued to it."""
    if not file.exists():
        return
    with file.open("r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            journal.truncate(whole)
