"""What a sampler is given and what it returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from picual import fingerprint
from picual.search.parameters import Candidate, Space
from picual.search.settings import Settings
from picual.search.trial import Trial

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of a candidate before it is tried.

    Attributes:
        cost: Seconds it will take, roughly; steps that are in the store take none.
        violations: Of bounds whose number can be forecast, such as the size, as a share of the limit.
        obstacle: Why it cannot be run here at all; empty when it can.
    """

    cost: float = 1.0
    violations: Mapping[str, float] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def hopeless(self) -> bool:
        """Whether it cannot be run, or cannot keep the bounds."""
        return bool(self.obstacle) or any(violation > 0 for violation in self.violations.values())


@dataclass(frozen=True, kw_only=True)
class History:
    """What a sampler may look at.

    Attributes:
        space: Of candidates.
        settings: Goals and seed.
        trials: Finished, in the order they were asked for.
        pending: Candidates under way.
        asked: How many were asked for so far: with the seed it decides every random choice, so that a study that
            was killed goes on as if it had not been.
        outlook: Tells what is known of a candidate beforehand.
        tried: Digests of the candidates of ``trials`` and ``pending``, if whoever makes this keeps them.
    """

    space: Space
    settings: Settings
    trials: Sequence[Trial]
    pending: Sequence[Candidate]
    asked: int
    seed: int
    outlook: Callable[[Candidate], Outlook]
    tried: AbstractSet[str] | None = None

    def seed_of(self, attempt: int) -> int:
        """Return the seed of one draw."""
        return (self.seed * 1_000_003 + self.asked * 101 + attempt) % 2**32

    def is_new(self, candidate: Candidate) -> bool:
        """Say whether a candidate was not tried yet and is not under way."""
        return digest_of(candidate) not in self._known

    @functools.cached_property
    def _known(self) -> AbstractSet[str]:
        if self.tried is not None:
            return self.tried
        return {digest_of(one) for one in (*(trial.candidate for trial in self.trials), *self.pending)}


def digest_of(candidate: Candidate) -> str:
    """Return what tells a candidate from any other."""
    return fingerprint.digest(dict(candidate))


class Sampler(Protocol):
    """Decides what to try next."""

    name: ClassVar[str]

    def ask(self, history: History) -> Candidate | None:
        """Return a candidate that was not tried, or None when there is none left.

        The same history must give the same candidate.
        """
        ...


@runtime_checkable
class OptunaSampler(Sampler, Protocol):
    """One that draws through Optuna; ``ask`` is what is left when it draws only what is known."""

    def optuna_sampler(self, history: History, attempt: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's sampler for one draw, seeded by the history and the attempt."""
        ...
