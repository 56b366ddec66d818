"""Our parameters in Optuna's words. A choice goes by the number of its value: values may be lists or mappings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from picual.search.parameters import Candidate, Parameter, Space
from picual.space import Choice, FloatRange, IntRange

if TYPE_CHECKING:
    import optuna


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the candidate that an asked trial stands for."""
    candidate: dict[str, Any] = {}
    for parameter in space.parameters:
        if parameter.exists(candidate):
            candidate[parameter.name] = _suggested(trial, parameter)
    return candidate


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
