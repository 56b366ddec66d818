"""The space of a search: its parameters, each with a domain, some of them only there when another is so."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from picual.space import Choice, Domain, FloatRange, IntRange

Candidate = Mapping[str, Any]  # value by parameter
LARGEST_FINITE = 100_000  # candidates that are counted one by one


@dataclass(frozen=True)
class Parameter:
    """One value that a search may choose.

    Attributes:
        name: As in the recipe, dotted: ``build-genai.block``, ``lora.training.max_steps``; of an alternative
            ``quantize[gptq].block``.
        domain: Its values, best guess first.
        when: (parameter, value) that must hold for this one to exist.
    """

    name: str
    domain: Domain
    when: tuple[str, Any] | None = None

    def exists(self, candidate: Candidate) -> bool:
        """Say whether a candidate has this parameter, the ones before it given."""
        return self.when is None or (self.when[0] in candidate and candidate[self.when[0]] == self.when[1])

    def values(self) -> tuple[Any, ...] | None:
        """Return every value, or None when they cannot be counted."""
        match self.domain:
            case Choice(values):
                return values
            case IntRange(low, high) if high - low < LARGEST_FINITE:
                return tuple(range(low, high + 1))
            case FloatRange(low, high) if low == high:
                return (low,)
        return None

    def draw(self, rng: random.Random) -> Any:
        """Return one value, uniform over the domain, or over its logarithm."""
        match self.domain:
            case Choice(values):
                return values[rng.randrange(len(values))]
            case IntRange(low, high, log):
                return rng.randint(low, high) if not log else round(_log_uniform(rng, low - 0.49, high + 0.49))
            case FloatRange(low, high, log):
                return rng.uniform(low, high) if not log else _log_uniform(rng, low, high)
        raise TypeError(self.domain)

    def first(self) -> Any:
        """Return the best guess."""
        return self.domain.values[0] if isinstance(self.domain, Choice) else self.domain.low

    def to_wire(self) -> dict[str, Any]:
        """Return the domain as JSON."""
        if isinstance(self.domain, Choice):
            return {"choices": list(self.domain.values)}
        return {"low": self.domain.low, "high": self.domain.high, "log": self.domain.log}


@dataclass(frozen=True)
class Space:
    """All parameters, those of early steps first."""

    parameters: tuple[Parameter, ...] = ()

    def first(self) -> dict[str, Any]:
        """Return the best guess of every parameter."""
        return self._filled(lambda parameter: parameter.first())

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Return one candidate at random."""
        return self._filled(lambda parameter: parameter.draw(rng))

    def candidates(self) -> list[dict[str, Any]] | None:
        """Return every candidate, the late steps changing fastest, or None when there are too many to count."""
        if self.size is None:
            return None
        found: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            values = parameter.values() or ()
            grown: Iterator[list[dict[str, Any]]] = (
                [{**one, parameter.name: value} for value in values] if parameter.exists(one) else [one]
                for one in found
            )
            found = list(itertools.chain.from_iterable(grown))
        return found

    @property
    def size(self) -> int | None:
        """The number of candidates, or None when it is not finite or beyond counting."""
        found: list[tuple[dict[str, Any], int]] = [({}, 1)]
        names = {parameter.when[0] for parameter in self.parameters if parameter.when is not None}
        for parameter in self.parameters:
            values = parameter.values()
            if values is None:
                return None
            grown: list[tuple[dict[str, Any], int]] = []
            for one, count in found:
                if not parameter.exists(one):
                    grown.append((one, count))
                elif parameter.name in names:  # others hang on its value
                    grown += [({**one, parameter.name: value}, count) for value in values]
                else:
                    grown.append((one, count * len(values)))
            found = grown
        total = sum(count for _, count in found)
        return total if total <= LARGEST_FINITE else None

    def _filled(self, choose: Any) -> dict[str, Any]:
        candidate: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.exists(candidate):
                candidate[parameter.name] = choose(parameter)
        return candidate

    def to_wire(self) -> dict[str, Any]:
        """Return the domains by parameter."""
        return {parameter.name: parameter.to_wire() for parameter in self.parameters}


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
