"""A sampler of Optuna's over a part of a study: a study of that part, in memory, is told its trials and asked."""

from __future__ import annotations

from picual.search.parameters import Candidate
from picual.search.samplers.base import History, OptunaSampler
from picual.search.samplers.optuna_terms import DRAWS, params_of, suggest, tell


def drawn(sampler: OptunaSampler, history: History) -> Candidate | None:
    """Return the sampler's first draw that is worth a trial; what it asks for without Optuna if none is."""
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
    for attempt in range(DRAWS):
        study.sampler = sampler.optuna_sampler(history, attempt)
        candidate = suggest(study.ask(), history.space)
        if history.is_new(candidate) and not history.outlook(candidate).hopeless:
            return candidate
    return sampler.ask(history)
