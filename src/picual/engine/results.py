"""How a run ended: plain values, from which the report is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.errors import PicualError
from picual.models import Model
from picual.plan import Plan
from picual.registries.base import Registered
from picual.search.trial import Trial


@dataclass(kw_only=True)
class StepResult:
    """One step, done or found in the store. Seconds and peaks are those of the time it ran."""

    name: str
    pass_name: str
    key: str
    cached: bool
    start: float | None = None  # seconds since the run began; None when it came from the store
    seconds: float = 0.0
    peak_rss: int = 0
    peak_anonymous: int = 0
    journal: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)  # [x, y] pairs by name
    made_in: dict[str, Any] = field(default_factory=dict)  # host, versions and processor


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model at one point of the run: ``baseline``, ``unquantized`` or ``final``."""

    name: str
    key: str
    model: Model


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound as it was, for one model."""

    measurement: str
    text: str
    limit: float | None
    value: float | None
    gap: float | None  # by how much the value breaks the limit, in its own unit; negative where it is kept
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is kept; what is not known is not."""
        return self.gap is not None and self.gap <= 0


@dataclass(kw_only=True)
class SearchResult:
    """What a search found."""

    sampler: str
    seed: int
    size: int | None  # of the space; None when it cannot be counted
    trials: list[Trial] = field(default_factory=list)  # best first
    ruled_out: list[Trial] = field(default_factory=list)  # by what is known beforehand, without a trial
    tied: list[int] = field(default_factory=list)
    front: list[int] = field(default_factory=list)
    best: int | None = None
    closest: int | None = None
    stopped: str = ""


@dataclass(kw_only=True)
class RunResult:
    """Everything a run knows when it ends, well or not."""

    output: Path
    plan: Plan  # of a search, that of the best candidate
    steps: list[StepResult] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    metrics: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # metric -> stage -> values
    search: SearchResult | None = None
    limits: list[Limit] = field(default_factory=list)
    registered: Registered | None = None
    error: PicualError | None = None
    seconds: float = 0.0
    placed: bool = False  # whether the verified model is in the output folder
    worked: bool = False  # whether any job ran; False: everything was there already

    @property
    def verdict(self) -> str:
        """Return ``verified``, or the class of the error that stopped the run."""
        return "verified" if self.error is None else type(self.error).__name__
