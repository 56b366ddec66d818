"""Mistakes in `data:`: files that are not there, templates that do not fit them, values out of range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from picual.data.base import BadTemplate, DataConfig, template_columns
from picual.data.files import check_columns
from picual.errors import BadValue, Problem, nearest
from picual.recipe.paths import named, near_files
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import Place, Recipe
from picual.recipe.spots import spot
from picual.sources.azure_address import parse

_AT_LEAST_ONE = ("max_length", "prompt_max_length", "stride", "max_samples")
_TEMPLATES = ("template", "prompt", "response")
_ABOUT_BRACES = "a column is `{column}`"
Finding = tuple[str, str, str]  # field, sentence, hint


def data_problems(recipe: Recipe, *, only: set[str] | None) -> list[Problem]:
    """Return what is wrong with the data sets.

    Args:
        recipe: With its data sets.
        only: The names to look at; None for all.
    """
    problems = []
    for name, config in recipe.data.items():
        if only is not None and name not in only:
            continue
        for field, what, hint in _findings(recipe, config):
            place = _place(recipe, name, field)
            problems.append(Problem(spot(place, step=f"data `{name}`", path=f"data.{name}"), what, hint))
    return problems


def _place(recipe: Recipe, name: str, field: str) -> Place:
    return recipe.data_places.get(f"{name}.{field}") or recipe.data_places.get(name) or Place(file=recipe.file)


def _findings(recipe: Recipe, config: DataConfig) -> Iterator[Finding]:
    yield from _ranges(config)
    templates = list(_templates(config))
    yield from templates
    files = list(_files(config, Path(recipe.folder)))
    yield from files
    if config.files and not files and not templates:
        yield from _columns(config)


def _ranges(config: DataConfig) -> Iterator[Finding]:
    if not 0 <= config.holdout < 1:
        yield "holdout", f"`holdout` is {config.holdout}; it must be at least 0 and less than 1", "`holdout: 0.3`"
    for field in _AT_LEAST_ONE:
        value = getattr(config, field)
        if value is not None and value < 1:
            yield field, f"`{field}` is {value}; it must be at least 1", ""


def _templates(config: DataConfig) -> Iterator[Finding]:
    for field in _TEMPLATES:
        template = getattr(config, field)
        if template is None:
            continue
        try:
            template_columns(template)
        except BadTemplate as error:
            yield field, f"`{field}`: {error.what}", _ABOUT_BRACES
    if (config.prompt is None) != (config.response is None):
        given, absent = ("prompt", "response") if config.response is None else ("response", "prompt")
        yield given, f"`{given}` needs `{absent}` beside it", ""


def _files(config: DataConfig, folder: Path) -> Iterator[Finding]:
    if not config.files and config.name is None:
        yield "", "it says neither `files` nor `name`", "`files:` takes a file, or a list of files"
    if config.files and config.name is not None:
        yield "name", "it says both `files` and `name`", "keep one of them"
    if config.name is not None and (left := placeholder_in(config.name)):
        yield "name", f"`name` still holds the placeholder `{left}`", f"replace `{left}`"
    for file in config.files:
        if file in config.remote():
            yield from _address(file)
        else:
            yield from _file(Path(file), folder)


def _address(file: str) -> Iterator[Finding]:
    """Look at the form of an address; what is there is known when a run fetches it."""
    try:
        parse(file)
    except BadValue as error:
        yield "files", error.what, error.hint


def _file(path: Path, folder: Path) -> Iterator[Finding]:
    name = named(path, folder)
    if left := placeholder_in(name):
        yield "files", f"`files` still holds the placeholder `{left}`", f"replace `{left}`"
    elif not path.exists():
        yield "files", f"there is no data file `{name}`", near_files(path, folder)
    elif path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())[:3]
        yield (
            "files",
            f"`{name}` is a folder, not a data file",
            nearest("", [f"{name}/{entry}" for entry in inside]),
        )
    elif path.stat().st_size == 0:
        yield "files", f"the data file `{name}` is empty", ""


def _columns(config: DataConfig) -> Iterator[Finding]:
    """Look for the columns that the templates name, and for rows that cannot be read."""
    for problem in check_columns(config):
        yield problem.field, problem.what, problem.hint


def template_problem(config: DataConfig, template: str) -> tuple[str, str] | None:
    """Return what is wrong with one more template on the rows of a data set (sentence, hint), if anything is."""
    try:
        template_columns(template)
    except BadTemplate as error:
        return error.what, _ABOUT_BRACES
    own = [problem for problem in check_columns(config) if problem.field == "files"]
    alone = dataclasses.replace(config, template=template, prompt=None, response=None, text=None, chat=None)
    found = [] if own or not config.files or not template_columns(template) else check_columns(alone)
    return (found[0].what, found[0].hint) if found else None
