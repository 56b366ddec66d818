"""Several passes of which a search chooses one, as a single step: `{search: [{type: ..., ...}, ...]}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from picual.recipe.olive.notes import Ledger
from picual.recipe.olive.reader import Found, object_reader
from picual.recipe.schema import Place, StepSpec

LEFT_OUT = {"type": "none"}


def choice(ledger: Ledger, among: Sequence[tuple[Found, StepSpec]], *, is_optional: bool) -> StepSpec:
    """Return the step that is one of several; of those that are the same here, only the first counts.

    Args:
        ledger: Of the import.
        among: The passes and where they stand, all under one name.
        is_optional: Whether the step may also be left out.
    """
    first = among[0][1]
    kept: list[dict[str, Any]] = []
    places: dict[str, Place] = {}
    for found, step in among:
        entry = {"type": step.type, **step.fields}
        if entry in kept:
            ledger.note(found.path, "mapped", f"the same here as number {kept.index(entry) + 1} of its list")
            continue
        kept.append(entry)
        places = {**step.places, **places}
        _one_host(ledger, found, step, first)
    if len(kept) == 1 and not is_optional:
        return first
    fields = {"search": [*kept, LEFT_OUT] if is_optional else kept}
    return StepSpec(name=first.name, type="", fields=fields, host=first.host, place=first.place, places=places)


def _one_host(ledger: Ledger, found: Found, step: StepSpec, first: StepSpec) -> None:
    given = object_reader(ledger, found).find("host")
    if given is not None and step.host != first.host:
        ledger.note(given.path, "later", "whichever pass a step is, it runs on one host: that of the first")
