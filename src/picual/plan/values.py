"""A plan as a value: steps and metrics with their keys, what they need, and what is in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual import fingerprint
from picual.data.base import DataConfig
from picual.hardware import Machine
from picual.metrics.base import Metric
from picual.models import Model, Profile
from picual.passes.base import Forecast, Pass
from picual.plan.sites import Site
from picual.recipe.schema import Note, Place, Recipe
from picual.registries.base import Registry
from picual.search import samplers
from picual.search.parameters import Candidate, Space
from picual.search.settings import Settings
from picual.sources.base import Source


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One pass with its key. ``key`` is None while the source's digest is not known: "hashed at run"."""

    number: int
    name: str
    a_pass: Pass[Any, Any]
    ingredients: Mapping[str, Any] | None
    key: str | None
    cached: bool
    why: str  # why it will run; empty when cached
    forecast: Forecast | None  # None: the sizes of its input are not known yet
    data: Mapping[str, DataConfig]
    site: Site  # where it runs
    after: Profile | None = None  # sizes of what it makes
    place: Place = field(default_factory=Place)

    @property
    def label(self) -> str:
        """Name the kind of work in the store."""
        return f"pass {self.a_pass.name}"


@dataclass(frozen=True, kw_only=True)
class PlannedMetric:
    """One metric, and the data sets it reads."""

    name: str
    metric: Metric
    data: Mapping[str, DataConfig]
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    Attributes:
        recipe: With nothing left open: of a search, its first candidate, or the one this plan is of.
        open_recipe: As it was given.
        search: Goals and limits of a search; None without one.
        space: What the search may choose.
        candidate: That this plan is of.
    """

    recipe: Recipe
    open_recipe: Recipe
    search: Settings | None
    space: Space
    candidate: Candidate
    source: Source
    model: Model | None  # the input model, when its files are here
    source_ingredients: Mapping[str, Any] | None
    source_cached: bool
    profile: Profile | None
    steps: tuple[PlannedStep, ...]
    metrics: tuple[PlannedMetric, ...]
    machine: Machine
    threads: int  # of this machine, and of every job whose host does not say otherwise
    sites: Mapping[str, Site] = field(default_factory=dict)  # hosts that are used, by name; `local` always is
    warnings: tuple[Note, ...] = ()
    registry: Registry | None = None  # where the result is registered

    @property
    def sampler(self) -> str:
        """Name the sampler of a search, `auto` resolved."""
        assert self.search is not None
        if self.search.sampler != "auto":
            return self.search.sampler
        return samplers.chosen(self.space, trials=self.search.trials, objectives=len(self.search.objectives))

    @property
    def measured_at(self) -> Site:
        """Where models are checked and measured."""
        return self.sites[self.recipe.measured_on]

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the recipe's reader and the model's source have to say."""
        said = (Note(path="model", kind="defaulted", text=text) for text in self.source.notes)
        return (*self.recipe.notes, *said, *self.warnings)

    @property
    def source_key(self) -> str | None:
        """The key of the input model."""
        return None if self.source_ingredients is None else fingerprint.digest(self.source_ingredients)

    @property
    def unquantized(self) -> int:
        """How many steps come before the first that loses precision: all of them if none does."""
        for index, step in enumerate(self.steps):
            if step.a_pass.compresses():
                return index
        return len(self.steps)

    @property
    def memory(self) -> int:
        """Peak bytes over the steps that will run."""
        return max((forecast.memory for forecast in self._to_run()), default=0)

    @property
    def disk(self) -> int:
        """Bytes that the steps which will run write."""
        return sum(forecast.disk for forecast in self._to_run())

    @property
    def seconds(self) -> float:
        """Rough time of the steps that will run."""
        return sum(forecast.seconds for forecast in self._to_run())

    def _to_run(self) -> list[Forecast]:
        return [step.forecast for step in self.steps if not step.cached and step.forecast is not None]
