"""The candidate with the best prospects a second: an additive Gaussian process over a finite space.

The expected improvement of the objective, times the chance that the bounds are kept, over the time a candidate
takes. Steps that are in the store take none, so that candidates which share what is expensive come first. What can
be forecast, such as the size, is not guessed: a candidate it rules out is never tried. When no candidate promises
more than a few thousandths, the search ends, whatever budget is left.

Source: D. Jones et al., "Efficient Global Optimization of Expensive Black-Box Functions", 1998; J. Gardner et al.,
"Bayesian Optimization with Inequality Constraints", 2014; J. Snoek et al., "Practical Bayesian Optimization of
Machine Learning Algorithms", 2012 (improvement per second).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from picual.search.parameters import Candidate, Parameter
from picual.search.samplers.base import History, Outlook
from picual.search.samplers.random_order import untried
from picual.space import Choice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ENOUGH = 0.003  # of improvement to be expected, as a share of the best, below which nothing is tried any more
COST_POWER = 0.75  # of the seconds: whole, and what is expensive would wait too long
MORE = 2  # trials beyond one for each parameter, before the prospects are believed


class GaussianProcess:
    """Bayesian optimization for one objective and any number of bounds."""

    name: ClassVar[str] = "gp"

    def ask(self, history: History) -> Candidate | None:
        """Return the candidate with the best prospects a second; the best guess of all parameters first."""
        import numpy as np

        left = [one for one in history.space.candidates() or [] if history.is_new(one)]
        outlooks = [history.outlook(candidate) for candidate in left]
        hopeful = [n for n, outlook in enumerate(outlooks) if not outlook.hopeless]
        if not hopeful:
            return None if history.space.size is not None else untried(history)
        left, outlooks = [left[n] for n in hopeful], [outlooks[n] for n in hopeful]
        first = history.space.first()
        if not history.trials and not history.pending and first in left:
            return first
        codes = encoded(history.space.parameters, left)
        score = _improvement(history, codes) * _chance(history, codes, outlooks)
        tried = sum(trial.state == "complete" for trial in history.trials)
        if score.max() < ENOUGH and tried >= len(history.space.parameters) + MORE:
            return None
        cost = np.array([max(outlook.cost, 1e-3) for outlook in outlooks])
        return left[int(np.argmax(score / cost**COST_POWER))]


def encoded(parameters: Sequence[Parameter], candidates: Sequence[Candidate]) -> Floats:
    """Return one row a candidate and one column a parameter: numbers as 0..1, others by the choice."""
    import numpy as np

    return np.array([[_code(parameter, one) for parameter in parameters] for one in candidates], dtype=np.float64)


def are_numbers(parameters: Sequence[Parameter]) -> npt.NDArray[np.bool_]:
    """Say of each column whether it is a number."""
    import numpy as np

    return np.array([_is_number(parameter) for parameter in parameters])


def _is_number(parameter: Parameter) -> bool:
    if not isinstance(parameter.domain, Choice):
        return True
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in parameter.domain.values
    )
    return numbers and parameter.when is None


def _code(parameter: Parameter, candidate: Candidate) -> float:
    """Return a value's code; a parameter that a candidate has not is a choice of its own."""
    if parameter.name not in candidate:
        return -1.0
    value, domain = candidate[parameter.name], parameter.domain
    if isinstance(domain, Choice):
        if not _is_number(parameter):
            return float(domain.values.index(value))
        return sorted(domain.values).index(value) / max(1, len(domain.values) - 1)
    if domain.high == domain.low:
        return 0.0
    if domain.log:
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return float((value - domain.low) / (domain.high - domain.low))


def _improvement(history: History, codes: Floats) -> Floats:
    """Return the expected improvement of the first objective over the best trial that keeps the bounds."""
    import numpy as np

    from picual.numerics.additive_process import AdditiveProcess, expected_improvement

    known = [trial for trial in history.trials if trial.losses and trial.losses[0] is not None]
    if not known:
        return np.ones(len(codes))
    losses = np.array([trial.losses[0] for trial in known], dtype=np.float64)
    scaled = _scaled(losses)
    feasible = [value for value, trial in zip(scaled, known, strict=True) if trial.feasible]
    if not feasible:
        return np.ones(len(codes))  # find one that keeps the bounds first
    parameters = history.space.parameters
    points = encoded(parameters, [trial.candidate for trial in known])
    process = AdditiveProcess.fit(points, scaled, are_numbers(parameters))
    mean, deviation = process.predict(codes)
    return expected_improvement(mean, deviation, min(feasible))


def _scaled(losses: Floats) -> Floats:
    """Return the losses so that a difference is a share: their logarithm, or their ratio to the mean size."""
    import numpy as np

    if losses.min() > 0:
        return np.asarray(np.log(losses))
    return np.asarray(losses / max(float(np.abs(losses).mean()), 1e-12))


def _chance(history: History, codes: Floats, outlooks: Sequence[Outlook]) -> Floats:
    """Return the chance that every bound which cannot be forecast is kept."""
    import numpy as np

    from picual.numerics.additive_process import AdditiveProcess, normal_share

    forecast = set().union(*(outlook.violations for outlook in outlooks))
    chance = np.ones(len(codes))
    parameters = history.space.parameters
    for text in {text for trial in history.trials for text in trial.violations} - forecast:
        known = [trial for trial in history.trials if trial.violations.get(text) is not None]
        values = np.array([trial.violations[text] for trial in known], dtype=np.float64)
        if not len(values):
            continue
        process = AdditiveProcess.fit(
            encoded(parameters, [trial.candidate for trial in known]), values, are_numbers(parameters)
        )
        mean, deviation = process.predict(codes)
        chance *= normal_share(-mean / deviation)
    return np.asarray(chance + 1e-9)
