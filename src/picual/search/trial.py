"""One candidate and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from picual.search.parameters import Candidate

State = Literal["complete", "dropped", "failed"]
_ALWAYS = ("candidate", "state")


@dataclass(frozen=True, kw_only=True, slots=True)  # there may be many thousands
class Trial:
    """A finished trial.

    Attributes:
        candidate: What was tried.
        state: ``complete``: all that the goals ask for was measured; ``dropped``: a cheap number or a forecast
            ruled it out; ``failed``: a step or a measurement did not end well.
        metrics: Values by metric, as far as measured.
        references: Values of the models that limits are relative to, by stage and metric.
        losses: Of each objective, to be made small; None when it is missing.
        violations: Of each bound by its text, as a share of its limit, positive when broken; None when unknown.
        why: Why it was dropped or failed.
        may_pass: Whether what it failed of may be gone tomorrow, such as a full disk: the next run tries it again.
        keys: Of its steps.
        ran: How many steps were not in the store.
        number: Its place in the study, from 1; 0 before it is recorded.
    """

    candidate: Candidate
    state: State
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    losses: tuple[float | None, ...] = ()
    violations: Mapping[str, float | None] = field(default_factory=dict)
    why: str = ""
    may_pass: bool = False
    seconds: float = 0.0
    keys: tuple[str, ...] = ()
    ran: int = 0
    number: int = 0

    @property
    def feasible(self) -> bool:
        """Whether every objective is there and every bound is kept: what is missing is never good."""
        if self.state != "complete" or any(loss is None for loss in self.losses):
            return False
        return all(violation is not None and violation <= 0 for violation in self.violations.values())

    @property
    def distance(self) -> float:
        """How far it is from keeping the bounds: the sum of the known violations; infinite for a failed trial."""
        if self.state == "failed":
            return math.inf
        return sum(max(0.0, violation) for violation in self.violations.values() if violation is not None)

    @property
    def size(self) -> float:
        """Megabytes of its model; infinite when it has none."""
        return float(self.metrics.get("size", {}).get("size_mb", math.inf))

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form; what is empty, and is so by default, is left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value or name in _ALWAYS}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Trial:
        """Read the JSON form."""
        return cls(**{**wire, "losses": tuple(wire.get("losses", ())), "keys": tuple(wire.get("keys", ()))})
