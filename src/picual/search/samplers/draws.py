"""Draws of Optuna's samplers: from a study, or from a part of one, told anew to a study in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picual.search.parameters import Candidate
from picual.search.samplers.base import History, OptunaSampler
from picual.search.samplers.optuna_terms import params_of, suggest, tell

if TYPE_CHECKING:
    import optuna

DRAWS = 20  # of Optuna's sampler, before chance decides


def draw(study: optuna.Study, sampler: OptunaSampler, history: History) -> tuple[optuna.Trial, Candidate] | None:
    """Return the first draw that is worth a trial; others are put down as failed."""
    from optuna.trial import TrialState

    for attempt in range(DRAWS):
        study.sampler = sampler.optuna_sampler(history, attempt)
        trial = study.ask()
        candidate = suggest(trial, history.space)
        if history.is_new(candidate) and not history.outlook(candidate).hopeless:
            return trial, candidate
        study.tell(trial, state=TrialState.FAIL)
    return None


def draw_inside(sampler: OptunaSampler, history: History) -> Candidate | None:
    """Return a draw from a part of a study; what the sampler asks for without Optuna if none is worth a trial."""
    import optuna

    study = optuna.create_study(
        directions=["minimize"] * max(1, len(history.settings.objectives)),
        sampler=optuna.samplers.RandomSampler(seed=history.seed),
    )
    for trial in history.trials:
        study.enqueue_trial(params_of(trial.candidate, history.space))
        asked = study.ask()
        suggest(asked, history.space)
        tell(study, asked, trial)
    drawn = draw(study, sampler, history)
    return sampler.ask(history) if drawn is None else drawn[1]
