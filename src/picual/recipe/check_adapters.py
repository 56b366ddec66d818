"""Adapters that the step after them cannot take, seen before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from picual.errors import Problem
from picual.recipe.schema import Recipe
from picual.recipe.spots import spot

SAVED = "modules_to_save"


def adapter_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem for each adapter with modules trained in full that goes unmerged into a graph."""
    for number, (step, later) in enumerate(itertools.pairwise(recipe.steps), 1):
        if step.type == "lora" and later.type == "build-genai" and step.fields.get(SAVED):
            place = step.places.get(SAVED) or step.place
            yield Problem(
                spot(place, step=f"step {number} `{step.name}`"),
                f"`{SAVED}` trains whole modules, and beside the graph of `{later.name}` an adapter is an update"
                " of linear layers alone",
                f"put `merge-adapter` before `{later.name}`, or leave `{SAVED}` out",
            )
