"""Non-dominated sorting genetic algorithm, by Optuna: for several objectives.

Source: K. Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from picual.search.parameters import Candidate
from picual.search.samplers.base import History
from picual.search.samplers.random_order import untried

if TYPE_CHECKING:
    import optuna

LARGEST_POPULATION = 20
GENERATIONS = 4  # that the budget should see
MUTATION = 0.3  # share of a child's parameters drawn anew; populations are small


class Nsga2:
    """Optuna's NSGA-II; bounds reach it as constraints of the trials."""

    name: ClassVar[str] = "nsga2"

    def optuna_sampler(self, history: History, attempt: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's sampler for one draw; it keeps the generation in the trial."""
        import optuna

        population = max(4, min(LARGEST_POPULATION, history.settings.trials // GENERATIONS))
        return optuna.samplers.NSGAIISampler(
            population_size=population, seed=history.seed_of(attempt), mutation_prob=MUTATION
        )

    def ask(self, history: History) -> Candidate | None:
        """Return a candidate at random, where children are only what is known."""
        return untried(history)
