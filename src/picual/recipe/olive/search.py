"""The `search` of a recipe: how a config asks for it, and what its metrics ask of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.recipe import searching
from picual.recipe.fields import is_search
from picual.recipe.olive.context import Context
from picual.recipe.olive.goals import Goals
from picual.recipe.olive.notes import Ledger
from picual.recipe.olive.strategy import NESTED, Strategy
from picual.recipe.schema import Recipe, StepSpec

_NOTHING_OPEN = "nothing is left open and no goal is set: every pass runs once"
_HINT = '`"evaluators": {"common": {"metrics": [...]}}` and `"evaluator": "common"`'


def search_of(context: Context, strategy: Strategy, goals: Goals, recipe: Recipe) -> Mapping[str, Any] | None:
    """Return the section; None when every step runs once.

    Args:
        context: Of the import.
        strategy: How the config asks for a search.
        goals: Of its metrics.
        recipe: Without the section.
    """
    ledger = context.ledger
    if not strategy.on or strategy.found is None:
        return None
    if not goals.has_evaluator:
        ledger.problem(strategy.found.path, "a search needs an `evaluator` that says what is best", _HINT)
        return None
    asked = goals.settings()
    if not goals.bounds and not any(_is_open(step, context.searched) for step in recipe.steps):
        _not_needed(ledger, strategy)
        goals.count_for_nothing("there is nothing to choose between: the metric is measured and reported")
        return None
    settings = dict(strategy.settings)
    if strategy.is_exhaustive and not context.searched and (size := searching.space_of(recipe).size) is not None:
        settings["trials"] = min(size, settings.get("trials", size))
    return {**asked, **settings}


def _is_open(step: StepSpec, searched: set[str]) -> bool:
    """Say whether a step is a choice; one that is not here may be, when Olive searches that pass by itself."""
    return not step.type or step.name in searched or any(is_search(value) for value in step.fields.values())


def _not_needed(ledger: Ledger, strategy: Strategy) -> None:
    assert strategy.found is not None
    found = strategy.found
    if not isinstance(found.value, Mapping):
        ledger.mapped(found.path, _NOTHING_OPEN)
        return
    for key, value in found.value.items():
        inner = value.keys() if key in NESTED and isinstance(value, Mapping) else ()
        paths = [(*found.path, key, one) for one in inner] or [(*found.path, key)]
        for path in paths:
            ledger.note(path, "mapped", _NOTHING_OPEN)
