from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from picual.recipe.document import document_of
from picual.recipe.olive import import_config
from picual.recipe.schema import Recipe

PUBLIC = Path(__file__).parents[5] / "shared" / "data" / "olive-configs"


def pytest_generate_tests(metafunc):
    """Give every public config to a test that asks for one; none where they are not at hand."""
    if "public_config" in metafunc.fixturenames:
        files = sorted(PUBLIC.glob("*.json")) if PUBLIC.is_dir() else []
        missing = [pytest.param(None, marks=pytest.mark.skip(reason="the public configs are not here"))]
        metafunc.parametrize("public_config", files or missing, ids=lambda file: getattr(file, "stem", None))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every plain value, empty mapping and list of plain values."""
    if isinstance(value, dict):
        if not value and path:
            yield path
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))
    elif isinstance(value, list):
        if not value or any(not isinstance(item, dict | list) for item in value):
            yield path
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                yield from leaves(item, (*path, str(index)))
    else:
        yield path


def unaccounted(value: Any, recipe: Recipe) -> list[str]:
    """Return the leaves that no note names, neither themselves nor something around them."""
    named = {note.path for note in recipe.notes}
    return [
        ".".join(path)
        for path in leaves(value)
        if not any(".".join(path[:depth]) in named for depth in range(1, len(path) + 1))
    ]


@pytest.fixture
def account() -> Callable[[Any, Recipe], list[str]]:
    return unaccounted


@pytest.fixture
def olive(tmp_path: Path) -> Callable[..., Recipe]:
    """Return an importer of mappings that also checks that nothing is lost without a word."""

    def import_(value: dict[str, Any]) -> Recipe:
        recipe = import_config(document_of(value), folder=tmp_path)
        assert unaccounted(value, recipe) == []
        return recipe

    return import_
