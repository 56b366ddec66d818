"""Passes that are one step here, though Olive has several, or stand in another order.

Olive says in one pass how the next one quantizes (``SelectiveMixedPrecision``, ``AutoClip``), rounds head and
embeddings in a pass of their own (``Rtn`` after ``Gptq``), and quantizes what was exported; here all weights of a
checkpoint are rounded at once, before ``build-genai``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picual.recipe.olive import pass_names
from picual.recipe.olive.build import only_floats
from picual.recipe.olive.flows import Slot
from picual.recipe.olive.notes import Ledger
from picual.recipe.olive.reader import Found, object_reader, word
from picual.recipe.schema import StepSpec

QUANTIZING = ("rtn", "gptq", "awq", "quantize")  # of our passes


@dataclass(frozen=True)
class Link:
    """A place in the order, and what around it is a part of it.

    Attributes:
        slot: The passes of which one stands there.
        says: Passes before it that only say how it quantizes.
        rest: The pass after it that quantizes what it leaves.
        is_moved: Whether it stood behind the builder, and comes before it here.
        takes_integers: Whether the steps before it leave a quantized checkpoint.
    """

    slot: Slot
    says: tuple[Found, ...] = ()
    rest: Found | None = None
    is_moved: bool = False
    takes_integers: bool = False


def links_of(ledger: Ledger, slots: Sequence[Slot], passes: Mapping[str, list[Found]]) -> list[Link]:
    """Return the places in the order of the steps."""
    entries = [_only(slot, passes) for slot in slots]
    kinds = ["" if entry is None else _kind(ledger, entry) for entry in entries]
    links: list[Link] = []
    index, is_quantized = 0, False
    while index < len(slots):
        first = index
        while index < len(slots) and kinds[index] in pass_names.SAYING:
            index += 1
        after = kinds[index] if index < len(slots) else ""
        if after not in pass_names.QUANTIZERS:
            links += [Link(slot) for slot in slots[first:index]]
            first = index
        if index == len(slots):
            break
        following = kinds[index + 1] if index + 1 < len(slots) else ""
        if after in pass_names.QUANTIZERS:
            says = tuple(entry for entry in entries[first:index] if entry is not None)
            rest = entries[index + 1] if following in pass_names.ROUNDING else None
            links.append(Link(slots[index], says=says, rest=rest))
            is_quantized, index = True, index + (1 if rest is None else 2)
        elif (
            following in pass_names.ONNX_QUANTIZERS and not is_quantized and _floats(ledger, after, entries[index])
        ):
            links += [Link(slots[index + 1], is_moved=True), Link(slots[index])]
            is_quantized, index = True, index + 2
        else:
            links.append(Link(slots[index]))
            index += 1
    return links


def quantizes(step: StepSpec) -> bool:
    """Say whether a step leaves a quantized checkpoint, whichever of its passes is chosen."""
    among = step.fields.get("search") if not step.type else None
    if isinstance(among, list):
        return all(entry.get("type") in QUANTIZING for entry in among)
    return step.type in QUANTIZING


def _only(slot: Slot, passes: Mapping[str, list[Found]]) -> Found | None:
    """Return the pass of a slot that is no choice."""
    names = [name for name in slot if name is not None]
    found = [entry for name in names for entry in passes[name]]
    return found[0] if len(found) == 1 and None not in slot else None


def _kind(ledger: Ledger, entry: Found) -> str:
    given = object_reader(ledger, entry).find_type()
    return "" if given is None else word(given.value)


def _floats(ledger: Ledger, kind: str, entry: Found | None) -> bool:
    return kind in pass_names.BUILD and entry is not None and only_floats(object_reader(ledger, entry))
