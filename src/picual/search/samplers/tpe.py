"""Tree-structured Parzen estimators, by Optuna: for spaces without end, or with many parameters.

Source: J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from picual.search.parameters import Candidate
from picual.search.samplers.base import History
from picual.search.samplers.random_order import untried

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials at random before the estimators speak


class Tpe:
    """Optuna's TPE; bounds reach it as constraints of the trials."""

    name: ClassVar[str] = "tpe"

    def optuna_sampler(self, history: History, attempt: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's sampler for one draw."""
        import optuna

        return optuna.samplers.TPESampler(
            seed=history.seed_of(attempt), n_startup_trials=STARTUP, multivariate=True
        )

    def ask(self, history: History) -> Candidate | None:
        """Return a candidate at random, where the estimators draw only what is known."""
        return untried(history)
