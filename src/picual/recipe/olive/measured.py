"""One metric of a config while it is read: what it is told, and what its numbers become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual.data.base import DataConfig
from picual.errors import nearest
from picual.recipe.olive.context import Context
from picual.recipe.olive.data import INPUT_MODEL_DATA, DataSets
from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.notes import Kind, Reason
from picual.recipe.olive.reader import Found, Reader, object_reader
from picual.recipe.olive.sub_types import SubType
from picual.recipe.schema import MetricSpec

_RUNTIME: Reason = ("ignored", "the model runs as its own settings and the target say")
_INPUTS: Reason = ("ignored", "the model's inputs are made of the data's text")
# What a metric's `user_config` may hold, where no kind of metric takes it.
UNUSED: dict[str, Reason] = {
    "inference_settings": _RUNTIME,
    "io_bind": _RUNTIME,
    "run_kwargs": _RUNTIME,
    "shared_kv_buffer": _RUNTIME,
    "input_names": _INPUTS,
    "input_shapes": _INPUTS,
    "input_types": _INPUTS,
    "batch_size": ("ignored", "the size of a batch makes no difference to the number"),
    "post_processing_func": ("ignored", "the model's answer is text, which needs no further processing"),
    "post_process": ("ignored", "the model's answer is text, which needs no further processing"),
    "sample_log_num": ("ignored", "the report holds examples of what the model answered"),
    "sample_log_dir": ("ignored", "the report holds examples of what the model answered"),
}


@dataclass
class Measured:
    """One metric.

    Attributes:
        context: Of the import.
        sets: The data sets of the recipe.
        reader: Of the metric, its `user_config` included.
        found: Its entry.
        name: In the recipe.
        kind: Its `type`, lower case.
        wanted: The numbers it is asked for.
        others: The metrics of the recipe before it.
        specs: What it becomes.
        numbers: What each number becomes, by its place among those asked for.
        missing: Why a number cannot be taken, by its place.
        inline: Name of the data set that is written inside it; empty until it is read.
    """

    context: Context
    sets: DataSets
    reader: Reader
    found: Found
    name: str
    kind: str
    wanted: list[SubType]
    others: list[MetricSpec]
    specs: list[MetricSpec] = field(default_factory=list)
    numbers: dict[int, Number] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    inline: str = ""

    def spec(self, type_: str, fields: Mapping[str, Any], *, suffix: str = "") -> str:
        """Return the name of the metric of the recipe that measures so; one that is there already is shared."""
        for known in (*self.others, *self.specs):
            if (known.type, dict(known.fields)) == (type_, dict(fields)):
                return known.name
        taken = {known.name for known in (*self.others, *self.specs)}
        name = self.name if self.name not in taken else f"{self.name}_{suffix or type_}"
        number, free = 2, name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        place = self.context.ledger.place(self.found.path)
        self.specs.append(MetricSpec(name=free, type=type_, fields=dict(fields), place=place))
        return free

    def data(self) -> str | None:
        """Return the name of the metric's data set, whether Picual reads it or not."""
        found = self.reader.given("data_config")
        if found is None:
            return INPUT_MODEL_DATA if INPUT_MODEL_DATA in self.sets.seen else None
        if isinstance(found.value, str):
            return found.value
        if not isinstance(found.value, Mapping):
            self.reader.wrong_type(found, "the name of a data config")
            return None
        if not self.inline:
            self.inline = self._put(found)
        return self.inline

    def _put(self, found: Found) -> str:
        """Read the data set that is written inside the metric, and return its name."""
        own = found.value.get("name")
        name = self.sets.free(own if isinstance(own, str) and own else f"{self.name}_data")
        self.sets.put(self.context, name, found)
        if "name" in found.value:
            self.context.ledger.mapped((*found.path, "name"), f"data.{name}")
        return name

    def require_data(self) -> None:
        """Say so where the metric names a data set that is not there."""
        found = self.reader.given("data_config")
        known = self.sets.seen
        if found is None or not isinstance(found.value, str) or found.value in known:
            return
        what = f"there is no data config `{found.value}`"
        self.context.ledger.problem(found.path, what, nearest(found.value, sorted(known)))

    def drop_all(self, reasons: Mapping[str, Reason]) -> None:
        """Note why values have no effect; a data set inside the metric that was read is not among them."""
        self.reader.drop_all({
            name: why for name, why in reasons.items() if name != "data_config" or not self.inline
        })  # fmt: skip

    def text(self, name: str | None) -> DataConfig | None:
        """Return the data set of a name, if its rows are text."""
        config = self.sets.configs.get(name or "")
        if config is None or not (config.text or config.template or config.prompt or config.chat):
            return None
        return config

    def say(self, name: str, kind: Kind, text: str) -> None:
        """Note what became of a value of the metric, if it is there and nothing is noted of it.

        Of a mapping that is read its parts are noted, unless it has another effect than it says.
        """
        found = self.reader.find(name)
        if found is not None and (not isinstance(found.value, Mapping) or kind != "mapped"):
            self.reader.drop(name, kind, text)


def read_size(metric: Measured) -> None:
    """Read a size on disk, which Olive counts in bytes and Picual in megabytes."""
    name = metric.spec("size", {})
    for place, sub_type in enumerate(metric.wanted):
        higher = is_higher_better(sub_type.reader, metric.kind, sub_type.name, metric.name)
        metric.numbers[place] = Number(name, higher, "MB", per=1e6)


def metric_reader(context: Context, found: Found) -> Reader:
    """Return the reader of a metric: its own keys, then those of `user_config`, which may stand there too."""
    inner = object_reader(context.ledger, found, nested="user_config")
    return Reader(context.ledger, list(reversed(inner.layers)))
