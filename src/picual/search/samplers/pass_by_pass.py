"""One step's parameters after the other: those of steps before stay at their best, those after at the best guess.

A greedy walk: it tries the sum of what each step may be, where trying all together takes the product.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from picual.search import ranking
from picual.search.parameters import Candidate, Parameter, Space
from picual.search.samplers.base import History, OptunaSampler, Sampler
from picual.search.samplers.draws import draw_inside
from picual.space import Choice


class PassByPass:
    """Leads another sampler through the steps."""

    name: ClassVar[str] = "pass-by-pass"

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def ask(self, history: History) -> Candidate | None:
        """Return what the other sampler asks for in the first step that is not used up."""
        groups = list(dict.fromkeys(step_of(parameter) for parameter in history.space.parameters))
        share = -(-history.settings.trials // max(1, len(groups)))
        fixed = _start(history)
        for group in groups:
            narrow = _narrowed(history, group, fixed)
            asked = self._asked(narrow) if len(narrow.trials) + len(narrow.pending) < share + 1 else None
            if asked is not None:
                return asked
            best, _ = ranking.best(narrow.trials, history.settings.objectives)
            closest = best or ranking.closest(narrow.trials)
            fixed = dict(closest.candidate) if closest is not None else fixed
        return None

    def _asked(self, narrow: History) -> Candidate | None:
        return draw_inside(self.inner, narrow) if isinstance(self.inner, OptunaSampler) else self.inner.ask(narrow)


def _start(history: History) -> Candidate:
    """Return the best guess, or the first candidate after it that is not ruled out beforehand."""
    first = history.space.first()
    if not history.outlook(first).hopeless:
        return first
    return next((one for one in history.space.candidates() or [] if not history.outlook(one).hopeless), first)


def step_of(parameter: Parameter) -> str:
    """Return the step that a parameter belongs to."""
    return re.split(r"[.\[]", parameter.name, maxsplit=1)[0]


def _narrowed(history: History, group: str, fixed: Candidate) -> History:
    """Return the history of one step: the others' parameters have the one value they are fixed at."""
    parameters = tuple(_parameters(history.space, group, fixed))
    space = Space(parameters)
    trials = [trial for trial in history.trials if _inside(trial.candidate, parameters)]
    pending = [candidate for candidate in history.pending if _inside(candidate, parameters)]
    return replace(history, space=space, trials=trials, pending=pending)


def _parameters(space: Space, group: str, fixed: Candidate) -> Iterator[Parameter]:
    for parameter in space.parameters:
        if step_of(parameter) == group:
            yield parameter
        elif parameter.name in fixed:
            yield replace(parameter, domain=Choice((fixed[parameter.name],)))


def _inside(candidate: Mapping[str, Any], parameters: tuple[Parameter, ...]) -> bool:
    fixed = [(one.name, one.domain.values[0]) for one in parameters
             if isinstance(one.domain, Choice) and len(one.domain.values) == 1]  # fmt: skip
    return all(candidate.get(name) == value for name, value in fixed)
