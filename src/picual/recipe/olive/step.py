"""One pass of a config while its parameters are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.domains import domain_of, listed
from picual.recipe.olive.notes import Path_
from picual.recipe.olive.reader import Found, Reader, unquoted
from picual.recipe.schema import Place

DEFAULT = ("DEFAULT_VALUE", "DEFAULT")
SEARCHED = "SEARCHABLE_VALUES"


@dataclass
class Step:
    """One pass.

    Attributes:
        context: Of the import.
        name: Of the step.
        reader: Of the pass.
        sets: The data sets of the recipe; a data config that is written inside the pass joins them.
        inside: Where it stands in the recipe; empty: under its name.
        unsearched: Why no parameter of it can be searched; empty when one can.
        fields: Of our pass, so far.
        places: Of the fields.
    """

    context: Context
    name: str
    reader: Reader
    sets: DataSets
    inside: str = ""
    unsearched: str = "there is no `search_strategy`"
    fields: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def to(self, ours: str) -> str:
        """Return the path of a field in the recipe."""
        return f"{self.inside or f'passes.{self.name}'}.{ours}"

    def path(self, olive: str) -> Path_:
        """Return where a parameter that was left out would stand."""
        return (*self.reader.layers[0].path, olive)

    def take(self, ours: str, *names: str, own: Sequence[Any] = (), is_list: bool = False) -> Any:
        """Return a parameter as it is, or as a search domain, and remember where it stands.

        Args:
            ours: Our field.
            names: Of the parameter.
            own: The values that Olive searches when none are given.
            is_list: Whether one value of it is a list.

        Returns:
            None for a parameter that is null, left out, or asked to have its default.
        """
        found = self.reader.given(*names)
        if found is None:
            return self._left_out(ours, names[0], own)
        value = found.value
        if isinstance(value, str) and value in DEFAULT:
            self.context.ledger.mapped(found.path, "the same as leaving it out, and not searched")
            return None
        if value == SEARCHED:
            value = self._suggested(found, ours, own)
        elif isinstance(value, list) and (not is_list or any(isinstance(one, list) for one in value)):
            value = self._listed(found, ours, is_list=is_list)
        else:
            value = value if is_list else unquoted(value)
            self.context.ledger.mapped(found.path, self.to(ours))
        if value is not None:
            self.places[ours] = self.context.ledger.place(found.path)
        return value

    def default(self, olive: str, ours: str, value: Any) -> None:
        """Set a field that the config leaves out, to what Olive takes for it."""
        self.fields[ours] = value
        self.context.ledger.note(self.path(olive), "defaulted", f"left out: {value}, as Olive does")

    def data(self, ours: str, olive: str) -> None:
        """Take the name of a data set; one that is written in place gets a name."""
        found = self.reader.given(olive)
        if found is None:
            return
        self.places[ours] = self.context.ledger.place(found.path)
        if isinstance(found.value, Mapping):
            self.fields[ours] = self._inline(found)
            return
        self.context.ledger.mapped(found.path, self.to(ours))
        self.fields[ours] = found.value

    def _left_out(self, ours: str, olive: str, own: Sequence[Any]) -> Any:
        if not own or self.unsearched:
            return None
        text = f"left out: {listed(own)} are tried, as Olive does in a search"
        self.context.ledger.note(self.path(olive), "defaulted", text)
        self.places[ours] = self.context.ledger.place(self.reader.layers[-1].path)
        return domain_of(own)

    def _suggested(self, found: Found, ours: str, own: Sequence[Any]) -> Any:
        if not own:
            text = "Olive suggests no values to search for it: it keeps its default"
            self.context.ledger.note(found.path, "ignored", text)
            return None
        if self.unsearched:
            self._refuse(found, f"`{found.path[-1]}` is to be searched")
            return None
        self.context.ledger.mapped(found.path, f"becomes `{self.to(ours)}`: {listed(own)}")
        return domain_of(own)

    def _listed(self, found: Found, ours: str, *, is_list: bool) -> Any:
        name, wanted = found.path[-1], list if is_list else str | int | float
        if not found.value or not all(isinstance(one, wanted) for one in found.value):
            what = "has no values to search" if not found.value else "is a list of what is no single value"
            self.context.ledger.problem(found.path, f"`{name}` {what}", "give it one value, or a list of values")
            return None
        if self.unsearched:
            self._refuse(found, f"`{name}` is a list, which asks for a search")
            return None
        self.context.ledger.mapped(found.path, f"becomes `{self.to(ours)}`, a choice of the search")
        return domain_of(found.value if is_list else map(unquoted, found.value))

    def _refuse(self, found: Found, what: str) -> None:
        self.context.ledger.problem(found.path, f"{what}, and {self.unsearched}", "give it one value")

    def _inline(self, found: Found) -> str:
        own = found.value.get("name")
        name = own if isinstance(own, str) and own else self.sets.free(f"{self.name}_{found.path[-1]}")
        if "name" in found.value:
            self.context.ledger.mapped((*found.path, "name"), f"data.{name}")
        self.sets.put(self.context, name, found)
        return name
