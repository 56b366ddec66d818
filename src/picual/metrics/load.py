"""How long a model takes to load, from files that the system has read before.

What it measures: in a fresh process whose libraries are imported already, the seconds until the model could
answer: tokenizer and weights. The first process only fills the file cache and is not counted, so the numbers are
of a warm cache; from a cold disk it takes as much longer as reading the files does. Median over the processes.
When: a program that starts for each question.
Cost: ``1 + repeats`` loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.conditions import Conditions
from picual.metrics.loading import load_apart
from picual.metrics.resampling import interval, median
from picual.models import Model
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class Load(Metric):
    """Seconds to load."""

    name: ClassVar[str] = "load"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "load_s"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "s"
    extra: ClassVar[str] = "hf"
    timed: ClassVar[bool] = True
    cost: ClassVar[int] = 4
    keys: ClassVar[tuple[str, ...]] = ("load_s", "import_s")

    repeats: int = param(3, help="Measured loads, each in a process of its own.")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "repeats")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``load_s`` with its interval, ``import_s`` of the libraries before it, and the conditions."""
        conditions = Conditions(context.threads)
        found = []
        for number in range(1 + self.repeats):
            found.append(load_apart(model, threads=context.threads, by=self.name))
            context.on_progress(number + 1, 1 + self.repeats, "loads")
        seconds = [one["load_s"] for one in found[1:]]
        return {
            "load_s": median(seconds),
            "import_s": median([one["import_s"] for one in found[1:]]),
            "intervals": {"load_s": list(interval(seconds, median, context.seed))},
            "file_cache": "warm",
            "repeats": self.repeats,
            **conditions.values(),
        }
