"""Our candidates and trials in Optuna's words.

A choice goes by the number of its value: values may be lists or mappings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from picual.search.parameters import Candidate, Parameter, Space
from picual.search.trial import Trial
from picual.space import Choice, FloatRange, IntRange

if TYPE_CHECKING:
    import optuna

LARGEST = 1e9  # stands for a violation that is not known: Optuna takes no infinity


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the candidate that an asked trial stands for."""
    candidate: dict[str, Any] = {}
    for parameter in space.parameters:
        if parameter.exists(candidate):
            candidate[parameter.name] = _suggested(trial, parameter)
    return candidate


def tell(study: optuna.Study, asked: optuna.Trial, trial: Trial) -> None:
    """Say how a trial ended; its bounds are constraints, and without an objective one is as good as another."""
    from optuna.trial import TrialState

    known = asked.constraints  # of a program that was killed while it told this: Optuna takes each once
    for text, violation in trial.violations.items():
        if text not in known:
            asked.set_constraint(text, LARGEST if violation is None else min(violation, LARGEST))
    losses = [loss for loss in trial.losses if loss is not None]
    if trial.state == "complete" and len(losses) == len(trial.losses):
        study.tell(asked, losses or [0.0])
    else:
        study.tell(asked, state=TrialState.FAIL if trial.state == "failed" else TrialState.PRUNED)


def params_of(candidate: Candidate, space: Space) -> dict[str, Any]:
    """Return a candidate as Optuna's parameters."""
    params = {}
    for parameter in space.parameters:
        if parameter.name in candidate:
            value = candidate[parameter.name]
            choice = isinstance(parameter.domain, Choice)
            params[parameter.name] = parameter.domain.values.index(value) if choice else value  # type: ignore[union-attr]
    return params


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Any:
    match parameter.domain:
        case Choice(values):
            return values[trial.suggest_categorical(parameter.name, list(range(len(values))))]
        case IntRange(low, high, log):
            return trial.suggest_int(parameter.name, low, high, log=log)
        case FloatRange(low, high, log):
            return trial.suggest_float(parameter.name, low, high, log=log)
    raise TypeError(parameter.domain)
