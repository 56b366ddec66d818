"""How a run ended: plain values, from which the report is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.errors import PicualError
from picual.models import Model


@dataclass(kw_only=True)
class StepResult:
    """One step, done or found in the store. Seconds and peaks are those of the time it ran."""

    name: str
    pass_name: str
    key: str
    cached: bool
    seconds: float = 0.0
    peak_rss: int = 0
    peak_anonymous: int = 0
    journal: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model at one point of the run: ``baseline``, ``unquantized`` or ``final``."""

    name: str
    key: str
    model: Model


@dataclass(kw_only=True)
class RunResult:
    """Everything a run knows when it ends, well or not."""

    output: Path
    steps: list[StepResult] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    metrics: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # metric -> stage -> values
    error: PicualError | None = None
    seconds: float = 0.0
    worked: bool = False  # whether any job ran; False: everything was there already

    @property
    def verdict(self) -> str:
        """Return ``verified``, or the class of the error that stopped the run."""
        return "verified" if self.error is None else type(self.error).__name__
