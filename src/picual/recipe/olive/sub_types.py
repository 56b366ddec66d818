"""What a metric's entries ask for: `sub_types`, or the one `sub_type` of the first versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Path_
from picual.recipe.olive.reader import Found, Reader, flag_of, object_reader, whole_number

GOAL_KEYS = ("priority", "priority_rank", "is_first_priority", "goal", "higher_is_better", "metric_config")

LAST = 1000  # priority of a metric of the oldest form that has none


@dataclass(frozen=True)
class SubType:
    """One number that a metric is asked for.

    Attributes:
        title: Its name as it is written; empty when the metric has but one number.
        reader: Of its entry; in the old form, of the metric.
        path: Where its name stands.
        is_alone: Whether it is of the oldest form, a metric with one number, each of which is an objective.
    """

    title: str
    reader: Reader
    path: Path_
    is_alone: bool = False

    @property
    def name(self) -> str:
        """Its name as Olive compares it."""
        return self.title.lower()

    def config(self) -> Reader | None:
        """Return the reader of its `metric_config`."""
        return self.reader.child("metric_config", nested=None)

    def priority(self) -> int | None:
        """Return its place among the objectives, from 1; None when it is none.

        In the oldest form every metric is one: after the first in priority the others follow as the file has them.
        """
        found = self.reader.given("priority", "priority_rank")
        if found is not None:
            number = whole_number(found.value)
            if number is None:
                self.reader.wrong_type(found, "a whole number")
            return number if number is not None and number > 0 else None
        first = self.reader.given("is_first_priority")
        if first is not None and flag_of(first.value) is True:
            return 1
        return LAST if self.is_alone else None


def sub_types(context: Context, reader: Reader) -> list[SubType]:
    """Return what a metric is asked for, in the order of the file."""
    ledger = context.ledger
    found = reader.given("sub_types")
    if found is None:
        single = reader.given("sub_type")
        if single is not None and isinstance(single.value, str):
            return [SubType(single.value.strip(), reader, single.path, is_alone=True)]
        return [SubType("", reader, reader.layers[0].path, is_alone=True)]
    if not isinstance(found.value, list):
        ledger.problem(found.path, "`sub_types` must be a list", '`"sub_types": [{"name": "accuracy_score"}]`')
        return []
    ledger.opened(found.path)
    for key in ("sub_type", *GOAL_KEYS):
        reader.drop(key, "ignored", "`sub_types` say it")
    entries = []
    for index, value in enumerate(found.value):
        path: Path_ = (*found.path, index)
        entry = {"name": value} if isinstance(value, str) else value
        if not isinstance(entry, Mapping):
            ledger.problem(found.path, "a sub type must be a mapping with `name`", '{"name": "accuracy_score"}')
            continue
        own = entry.get("name")
        inner = object_reader(ledger, Found(path, entry), nested=None)
        named = own.strip() if isinstance(own, str) else ""
        entries.append(SubType(named, inner, (*path, "name") if isinstance(value, Mapping) else found.path))
    return entries
