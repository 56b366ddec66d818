"""What a metric is: a frozen value that measures one model, or the data alone."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from picual.data.base import DataConfig
from picual.errors import BadValue, UnknownName, nearest
from picual.hardware import Target
from picual.models import Model


@dataclass
class MetricContext:
    """What a metric may use beside the model."""

    target: Target = field(default_factory=Target)
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    scratch: Path = field(default_factory=Path)
    folder: Path | None = None  # what is written here is kept with the values
    against: Model | None = None  # the input model, for timings taken in turn
    trust: bool = False  # whether the user's own code may run
    on_progress: Callable[[float, float, str], None] = lambda _done, _total, _note: None

    def dataset(self, name: str, *, by: str) -> DataConfig:
        """Return a data set of the recipe.

        Args:
            name: As the recipe calls it.
            by: The metric that asks.

        Raises:
            UnknownName: The recipe defines no such data set.
        """
        if name not in self.data:
            raise UnknownName(f"`{by}` asks for unknown data `{name}`", hint=nearest(name, list(self.data)))
        return self.data[name]


def require_counts(metric: Metric, *names: str) -> None:
    """Refuse counts below 1.

    Raises:
        BadValue: Says which.
    """
    for name in names:
        value = getattr(metric, name)
        if value is not None and value < 1:
            raise BadValue(f"`{name}` is {value}; it must be at least 1", hint=f"leave out `{name}`")


UNITS_BY_NAME = {
    "tokens/s": r"tokens_per_s$", "x": r"speedup$", "ms": r"(^|_)ms(_|$)", "MB": r"_mb$", "s": r"_s$",
}  # fmt: skip


class Metric(abc.ABC):
    """One measurement. A frozen dataclass: its fields are its configuration and its cache identity.

    Declared with ``picual.space.param``, like the fields of a pass.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    key: ClassVar[str]  # the number that stands for the metric in tables
    higher_is_better: ClassVar[bool]
    unit: ClassVar[str] = ""
    extra: ClassVar[str] = "evaluate"
    imports: ClassVar[tuple[str, ...]] = ()
    # `model`: of each model; `data`: of the data alone, measured once.
    scope: ClassVar[Literal["model", "data"]] = "model"
    # Timings are never reused across hosts, and nothing else runs while one is taken.
    timed: ClassVar[bool] = False
    # Whether it reads a text of ours when the recipe names none.
    has_text: ClassVar[bool] = False
    # Whether it has nothing to do without the data sets it names.
    needs_data: ClassVar[bool] = True
    # Whether it is taken of the input model too; one that compares with a reference is taken of the result alone.
    has_reference_values: ClassVar[bool] = True
    # 0 free, 1 seconds, 2 a pass over a text, 3 answers, 4 timing. What is cheap is taken first.
    cost: ClassVar[int] = 2
    # Whether names and sizes of files are all it looks at: it is no job then, the driver takes it by the way.
    of_file_sizes: ClassVar[bool] = False
    keys: ClassVar[tuple[str, ...]] = ()  # its numbers, where they are known beforehand

    @abc.abstractmethod
    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return the numbers by name, ``key`` among them."""

    @classmethod
    def unit_of(cls, key: str) -> str:
        """Return the unit of one of its numbers: declared for the main one, of others by how they are named."""
        if key == cls.key:
            return cls.unit
        return next((unit for unit, pattern in UNITS_BY_NAME.items() if re.search(pattern, key)), "")

    def rises(self) -> bool:
        """Say whether a higher number is a better one; a metric that holds many functions knows it of each."""
        return self.higher_is_better

    def user_code(self) -> str | None:
        """Return the file of the user's that the metric would run, which takes `--trust`, if there is one."""
        return None

    def probe(self) -> Metric | None:
        """Return a much cheaper version of this metric, whose spread can rule a model out; None without one."""
        return None
