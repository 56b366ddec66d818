"""Whether each step can take what the one before it makes, and which order would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from picual.models import Model
from picual.passes import registry
from picual.passes.base import Pass

Kind = type[Pass[Any, Any]]


@dataclass(frozen=True)
class Misfit:
    """One step that cannot stand where it stands; ``index`` counts from 0."""

    index: int
    what: str
    hint: str


def misfits(given: type[Model], names: Sequence[str], kinds: Sequence[Kind | None]) -> list[Misfit]:
    """Return every step that cannot take what comes to it.

    Args:
        given: What the input model is.
        names: Of the steps, in order.
        kinds: Their passes; None where the pass is unknown, after which anything may come.
    """
    start = (given,)
    found = []
    have: tuple[type[Model], ...] | None = start
    for index, kind in enumerate(kinds):
        if kind is not None and have is not None and not _takes(kind, have):
            found.append(_misfit(index, names, kinds, have, start))
        have = None if kind is None else _made(kind, have)
    return found


def _takes(kind: Kind, have: Sequence[type[Model]]) -> bool:
    wanted = _kinds(kind.accepts)
    return not wanted or any(issubclass(one, wanted) for one in have)


def _made(kind: Kind, have: Sequence[type[Model]] | None) -> tuple[type[Model], ...] | None:
    """Return what a step makes; one that takes and makes the same few kinds makes the kind that came in."""
    made = _kinds(kind.produces)
    kept = tuple(one for one in have or () if one in made)
    return (kept if len(made) > 1 and kept and _kinds(kind.accepts) == made else made) or None


def _kinds(annotation: Any) -> tuple[type[Model], ...]:
    options = get_args(annotation) or (annotation,)
    return tuple(option for option in options if isinstance(option, type) and issubclass(option, Model))


def _misfit(
    index: int, names: Sequence[str], kinds: Sequence[Kind | None], have: Sequence[type[Model]],
    start: Sequence[type[Model]],
) -> Misfit:  # fmt: skip
    kind, name = kinds[index], names[index]
    assert kind is not None
    takes = " or ".join(one.title for one in _kinds(kind.accepts))
    came = " or ".join(one.title for one in have)
    if index == 0:
        what = f"`{name}` cannot come first: it takes {takes}; the input model is {came}"
    else:
        what = (
            f"`{name}` cannot follow step {index} `{names[index - 1]}`: `{name}` takes {takes};"
            f" `{names[index - 1]}` makes {came}"
        )
    return Misfit(index, what, _better_place(index, names, kinds, start) or _step_between(kind, have, name))


def _better_place(
    index: int, names: Sequence[str], kinds: Sequence[Kind | None], start: Sequence[type[Model]]
) -> str:
    """Return the move of this one step that makes the whole order fit: the nearest, later before earlier."""
    others = [number for number in range(len(kinds)) if number != index]
    for place in sorted(range(len(kinds)), key=lambda place: (abs(place - index), place < index)):
        order = [*others[:place], index, *others[place:]]
        if place == index or not _fits([kinds[number] for number in order], start):
            continue
        if place < index:
            return f"move `{names[index]}` before `{names[order[place + 1]]}`"
        return f"move `{names[index]}` after `{names[order[place - 1]]}`"
    return ""


def _fits(kinds: Sequence[Kind | None], start: Sequence[type[Model]]) -> bool:
    have: Sequence[type[Model]] | None = start
    for kind in kinds:
        if kind is not None and have is not None and not _takes(kind, have):
            return False
        have = None if kind is None else _made(kind, have)
    return True


def _step_between(kind: Kind, have: Sequence[type[Model]], name: str) -> str:
    """Name a pass that makes what the step takes out of what is there."""
    wanted = _kinds(kind.accepts)
    makers = [
        other
        for other in registry.BUILT_IN
        if (maker := registry.load(other)) is not kind
        and _takes(maker, have)
        and any(issubclass(one, wanted) for one in _kinds(maker.produces))
    ]
    if makers:
        return f"put `{makers[0]}` before `{name}`"
    return f"remove `{name}`"
