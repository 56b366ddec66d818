"""`pass_flows`: the order of the passes; several flows are steps that may be left out, or be one of several."""

from __future__ import annotations

import math
from collections.abc import Sequence

from picual.errors import nearest
from picual.recipe.olive.notes import Ledger
from picual.recipe.olive.reader import Found

Flow = tuple[str, ...]
Slot = tuple[str | None, ...]  # names of the passes that a step may be; None: it is left out


def slots_of(ledger: Ledger, named: Sequence[str], found: Found | None, *, is_search: bool) -> list[Slot]:
    """Return the steps in their order, each as the names it may be.

    Args:
        ledger: Of the import.
        named: The names under `passes`, in their order.
        found: `pass_flows`.
        is_search: Whether there is a search, which alone can choose between flows.
    """
    if found is None:
        return [(name,) for name in named]
    flows = found.value if isinstance(found.value, list) else []
    if flows and all(isinstance(name, str) for name in flows):
        flows = [flows]
    if not flows or not all(_is_flow(flow) for flow in flows):
        ledger.problem(
            found.path, "`pass_flows` must be a list of lists of names under `passes`", nearest("", list(named))
        )
        return [(name,) for name in named]
    unknown = list(dict.fromkeys(name for flow in flows for name in flow if name not in named))
    for name in unknown:
        ledger.problem(found.path, f"`pass_flows` names `{name}`, which is no pass", nearest(name, list(named)))
    if unknown:
        return [(name,) for name in named]
    distinct = list(dict.fromkeys(tuple(dict.fromkeys(flow)) for flow in flows))
    slots = (combined(distinct) if is_search else None) or [(name,) for name in distinct[0]]
    _note(ledger, found, distinct, slots, is_search=is_search)
    return slots


def combined(flows: Sequence[Flow]) -> list[Slot] | None:
    """Return the steps whose combinations are the flows and nothing else, or None when there are none such."""
    return _optional(flows) or _exchanged(flows)


def _optional(flows: Sequence[Flow]) -> list[Slot] | None:
    """Return the longest flow, its steps optional that another flow is without."""
    longest = max(flows, key=len)
    orders = {name: place for place, name in enumerate(longest)}
    for flow in flows:
        places = [orders.get(name, -1) for name in flow]
        if -1 in places or places != sorted(places):
            return None
    slots: list[Slot] = [(name,) if all(name in flow for flow in flows) else (name, None) for name in longest]
    return slots if _count(slots) == len(flows) else None


def _exchanged(flows: Sequence[Flow]) -> list[Slot] | None:
    """Return the flows place by place, where they are equally long."""
    if len({len(flow) for flow in flows}) > 1:
        return None
    slots: list[Slot] = [tuple(dict.fromkeys(names)) for names in zip(*flows, strict=True)]
    return slots if _count(slots) == len(flows) else None


def _count(slots: Sequence[Slot]) -> int:
    return math.prod(len(slot) for slot in slots)


def _is_flow(flow: object) -> bool:
    return isinstance(flow, list) and bool(flow) and all(isinstance(name, str) for name in flow)


def _note(ledger: Ledger, found: Found, flows: Sequence[Flow], slots: Sequence[Slot], *, is_search: bool) -> None:
    if len(flows) == 1:
        ledger.mapped(found.path, "the order of the steps")
    elif _count(slots) == len(flows):
        text = "its flows are the combinations of steps that may be left out or exchanged: the search tries them"
        ledger.mapped(found.path, text)
    elif is_search:
        text = "the first flow is the order of the steps; flows that are not combinations of single steps which "
        ledger.note(found.path, "later", text + "may be left out or exchanged are not supported in this version")
    else:
        ledger.note(found.path, "later", f"the first flow is the order of the steps; {len(flows) - 1} more would "
                    "need search")  # fmt: skip
