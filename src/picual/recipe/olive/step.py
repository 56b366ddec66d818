"""One pass of a config while its parameters are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.notes import Path_
from picual.recipe.olive.reader import Found, Reader
from picual.recipe.schema import Place


@dataclass
class Step:
    """One pass.

    Attributes:
        context: Of the import.
        name: Of the step.
        reader: Of the pass.
        sets: The data sets of the recipe; a data config that is written inside the pass joins them.
        fields: Of our pass, so far.
        places: Of the fields.
    """

    context: Context
    name: str
    reader: Reader
    sets: DataSets
    fields: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def to(self, ours: str) -> str:
        """Return the path of a field in the recipe."""
        return f"passes.{self.name}.{ours}"

    def path(self, olive: str) -> Path_:
        """Return where a parameter that was left out would stand."""
        return (*self.reader.layers[0].path, olive)

    def take(self, ours: str, *names: str) -> Any:
        """Return a parameter as it is and remember where it stands; null is left out."""
        value = self.reader.take(*names, to=self.to(ours))
        found = self.reader.find(*names)
        if found is not None and value is not None:
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

    def _inline(self, found: Found) -> str:
        own = found.value.get("name")
        name = own if isinstance(own, str) and own else f"{self.name}_{found.path[-1]}"
        if "name" in found.value:
            self.context.ledger.mapped((*found.path, "name"), f"data.{name}")
        self.sets.put(self.context, name, found)
        return name
