"""Secrets do not belong in a recipe: reports, stores and jobs copy it. What looks like one is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from picual.errors import Problem
from picual.recipe.dump import to_mapping
from picual.recipe.schema import Place, Recipe
from picual.recipe.spots import spot

_HUB = "log in (`hf auth login`) or set `HF_TOKEN`; on Azure: `keyvault_name` and `hf_token: true` under the host"
_AZURE = "log in (`az login`); datastores and identities give access without it"
_PATTERNS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "a token of the Hugging Face hub", _HUB),
    (re.compile(r"[?&]sig=[A-Za-z0-9%+/=]{16,}"), "a signed address", _AZURE),
    (re.compile(r"(?i)accountkey=[A-Za-z0-9+/=]{20,}"), "the key of a storage account", _AZURE),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"), "an access token", _AZURE),
    (
        re.compile(r"://[^/\s:@]+:[^/\s:@]+@"),
        "a password in an address",
        "give it by the service's own environment",
    ),
)


def secret_problems(recipe: Recipe) -> list[Problem]:
    """Return where a recipe holds what looks like a secret; the secret itself is not repeated."""
    found = []
    for path, text in _texts(to_mapping(recipe), ()):
        for pattern, what, hint in _PATTERNS:
            if pattern.search(text):
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
