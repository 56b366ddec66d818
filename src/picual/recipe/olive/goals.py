"""Goals and priorities of sub types, as the `subject_to` and `objectives` of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual.errors import nearest
from picual.recipe.olive.notes import Ledger, Path_
from picual.recipe.olive.reader import Found, Reader, number_of, object_reader, word
from picual.recipe.olive.sub_types import LAST, SubType

TYPES = ("threshold", "min-improvement", "percent-min-improvement", "max-degradation", "percent-max-degradation")
_SPELLED_KEYS = ("goal", "priority", "priority_rank", "is_first_priority")


@dataclass(frozen=True)
class Number:
    """What a sub type becomes: a measurement of the recipe, which way it is better, and in what unit.

    ``per`` is how many of Olive's units one of ours holds: Olive counts bytes, we count megabytes.
    """

    measurement: str
    is_higher_better: bool
    unit: str = ""
    per: float = 1.0


@dataclass
class Goals:
    """The goals of a config while its metrics are read.

    Attributes:
        ledger: Of the import.
        is_search: Whether a search uses them.
        has_evaluator: Whether the engine names an evaluator that exists.
        bounds: By measurement.
        where: Of the parts of `search`, by their path.
    """

    ledger: Ledger
    is_search: bool
    has_evaluator: bool = False
    bounds: dict[str, list[str]] = field(default_factory=dict)
    where: dict[str, Path_] = field(default_factory=dict)
    _ranked: list[tuple[int, Path_, Number]] = field(default_factory=list)
    _unranked: list[tuple[Path_, Number]] = field(default_factory=list)
    _missing: int = 0

    def add(self, sub_type: SubType, number: Number) -> None:
        """Take the goal and the priority of a number that is measured."""
        reader = sub_type.reader
        priority = sub_type.priority()
        found = reader.find("priority", "priority_rank", "is_first_priority")
        if not self.is_search:
            text = "without a search nothing is chosen: the metric is measured and reported"
            reader.drop_all(dict.fromkeys(_SPELLED_KEYS, ("ignored", text)))
            return
        if priority is not None:
            self._ranked.append((priority, sub_type.path if found is None else found.path, number))
        else:
            self._unranked.append((sub_type.path, number))
            text = "no objective: the number is measured and reported"
            reader.drop_all(dict.fromkeys(_SPELLED_KEYS[1:], ("mapped", text)))
        goal = reader.given("goal")
        if goal is not None:
            self._bound(goal, number, has_priority=priority is not None)

    def lose(self, sub_type: SubType, why: str) -> None:
        """Say of the goal and the priority of a number that is not measured that they count for nothing."""
        self._missing += 1
        for name in _SPELLED_KEYS:
            sub_type.reader.drop(name, "later", f"its number is not measured: {why}", again=True)

    def settings(self) -> dict[str, Any]:
        """Return the goals as parts of the recipe's `search`."""
        found: dict[str, Any] = {}
        ranked = self._in_order()
        if ranked:
            found["objectives"] = [
                {"maximize" if number.is_higher_better else "minimize": number.measurement} for number in ranked
            ]
        if self.bounds:
            found["subject_to"] = {
                name: texts[0] if len(texts) == 1 else texts for name, texts in self.bounds.items()
            }
        return found

    def count_for_nothing(self, text: str) -> None:
        """Say of every priority that nothing is ranked by it."""
        for _, path, _ in self._ranked:
            self.ledger.note(path, "ignored", text)

    def _in_order(self) -> list[Number]:
        ranked = sorted(self._ranked, key=lambda one: one[0])
        for place, (priority, path, number) in enumerate(ranked):
            direction = "maximize" if number.is_higher_better else "minimize"
            text = f"becomes `search.objectives`: {direction} `{number.measurement}`, number {place + 1}"
            if place and ranked[place - 1][0] == priority != LAST:
                text += "; of equal priorities the first in the file comes first"
            self.ledger.mapped(path, text)
            self.where.setdefault(f"search.{direction}", path)
            self.where.setdefault("search.objectives", path)
        if not ranked and len(self._unranked) == 1 and not self._missing:
            path, number = self._unranked[0]
            self.where["search.objectives"] = path
            return [number]
        return [number for _, _, number in ranked]

    def _bound(self, found: Found, number: Number, *, has_priority: bool) -> None:
        if not isinstance(found.value, Mapping):
            self.ledger.problem(found.path, "a goal must be a mapping with `type` and `value`", _EXAMPLE)
            return
        reader = object_reader(self.ledger, found, nested=None)
        kind, value = self._kind(reader, found), self._value(reader, found)
        if kind is None or value is None or self._is_impossible(reader, kind, value, number):
            return
        bound = bound_of(kind, value, number)
        self.bounds.setdefault(number.measurement, []).append(bound)
        self.where.setdefault("search.subject_to", found.path)
        text = f"becomes `search.subject_to.{number.measurement}: {bound}`"
        self.ledger.mapped((*found.path, "type"), text)
        if kind.startswith("percent") and 0 < value < 1:
            text += f"; {value:g} is less than one percent: a share would be written as {value * 100:g}"
        if not has_priority:
            text += "; Olive overlooks goals without a priority"
        self.ledger.mapped((*found.path, "value"), text)
        reader.unknown(("type", "value"), "a goal", ("type", "value"))

    def _kind(self, reader: Reader, goal: Found) -> str | None:
        found = reader.given("type")
        kind = "" if found is None else word(found.value).replace("_", "-")
        if kind in TYPES:
            return kind
        path = goal.path if found is None else found.path
        what = "a goal without `type`" if found is None else f"`{found.value}` is no type of goal"
        self.ledger.problem(path, what, nearest(kind, TYPES) or "it can be " + ", ".join(TYPES))
        return None

    def _value(self, reader: Reader, goal: Found) -> float | None:
        found = reader.given("value")
        if found is None:
            self.ledger.problem(goal.path, "a goal without `value`", _EXAMPLE)
            return None
        value = number_of(found.value)
        if value is None:
            reader.wrong_type(found, "a number")
        return value

    def _is_impossible(self, reader: Reader, kind: str, value: float, number: Number) -> bool:
        """Refuse what no model can do, as Olive does: to gain less than nothing, or to take less than no time."""
        found = reader.find("value")
        assert found is not None
        if kind != "threshold" and value < 0:
            self.ledger.problem(found.path, f"`value` is {value:g}; it must be at least 0", "leave out the sign")
            return True
        whole = kind == ("percent-max-degradation" if number.is_higher_better else "percent-min-improvement")
        if whole and value >= 100:
            what = f"`value` is {value:g}; `{number.measurement}` cannot get smaller by as much"
            self.ledger.problem(found.path, what, "give a number of percent below 100")
            return True
        return False


_EXAMPLE = '`"goal": {"type": "max-degradation", "value": 0.01}`'


def bound_of(kind: str, value: float, number: Number) -> str:
    """Return a goal as the recipe writes it: `>= baseline - 0.01`."""
    operator = ">=" if number.is_higher_better else "<="
    percent = kind.startswith("percent")
    amount = _written(value if percent else value / number.per) + ("%" if percent else number.unit)
    if kind == "threshold":
        return f"{operator} {amount}"
    if value == 0:
        return f"{operator} baseline"
    gains = kind.endswith("min-improvement")
    sign = "+" if gains == number.is_higher_better else "-"
    return f"{operator} baseline {sign} {amount}"


def _written(number: float) -> str:
    return format(number, ".12g")
