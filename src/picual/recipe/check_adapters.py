"""Adapters that the step after them cannot take as it is, seen before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from picual.errors import Problem, UnknownName
from picual.models import QuantizedHfModel
from picual.passes import registry
from picual.recipe.schema import Recipe, StepSpec
from picual.recipe.spots import spot

SAVED, PRECISION = "modules_to_save", "precision"
ROUNDED = ("int8", "int4")


def adapter_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem for each adapter that goes unmerged into a graph which cannot be made as asked.

    Modules trained in full have no place beside a graph, and what is integers already is not rounded again.
    """
    before: StepSpec | None = None
    for number, (step, later) in enumerate(itertools.pairwise(recipe.steps), 1):
        if step.type == "lora" and later.type == "build-genai":
            yield from _saved(step, later, number)
            if step.fields.get("base") == "int4" or (before is not None and _quantizes(before)):
                yield from _rounded_twice(later, number + 1)
        before = step


def _quantizes(step: StepSpec) -> bool:
    try:
        return registry.load(step.type).produces is QuantizedHfModel
    except UnknownName:
        return False


def _rounded_twice(step: StepSpec, number: int) -> Iterator[Problem]:
    asked = step.fields.get(PRECISION)
    if asked in ROUNDED:
        yield Problem(
            spot(step.places.get(PRECISION) or step.place, step=f"step {number} `{step.name}`"),
            f"`{PRECISION}: {asked}` would round weights that are integers already, those that the adapter knows",
            f"leave `{PRECISION}` out: the integers go over as they are",
        )


def _saved(step: StepSpec, later: StepSpec, number: int) -> Iterator[Problem]:
    if step.fields.get(SAVED):
        place = step.places.get(SAVED) or step.place
        yield Problem(
            spot(place, step=f"step {number} `{step.name}`"),
            f"`{SAVED}` trains whole modules, and beside the graph of `{later.name}` an adapter is an update"
            " of linear layers alone",
            f"put `merge-adapter` before `{later.name}`, or leave `{SAVED}` out",
        )
