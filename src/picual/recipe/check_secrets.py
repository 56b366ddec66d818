"""Secrets do not belong in a recipe: reports, stores and jobs copy it. What looks like one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from picual.errors import Problem
from picual.recipe.dump import to_mapping
from picual.recipe.schema import Place, Recipe
from picual.recipe.secrets import is_kept_quiet, secrets_in
from picual.recipe.spots import spot

_VARIABLE = ("what is called a secret", "set it on the machine where the steps run")


def secret_problems(recipe: Recipe) -> list[Problem]:
    """Return where a recipe holds what looks like a secret; the secret itself is not repeated."""
    found = []
    for path, text in _texts(to_mapping(recipe), ()):
        named_so = "environment_variables" in path and is_kept_quiet(path[-1], text)
        for what, hint in secrets_in(text) or ([_VARIABLE] if named_so else []):
            named = ".".join(path)
            place = next((recipe.places[key] for key in _upwards(path) if key in recipe.places), None)
            where = spot(place or Place(file=recipe.file), path=named)
            found.append(Problem(where, f"`{named}` holds {what}", hint))
    return found


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, path)
    elif isinstance(value, str):
        yield path, value


def _upwards(path: tuple[str, ...]) -> Iterator[str]:
    for length in range(len(path), 0, -1):
        yield ".".join(path[:length])
