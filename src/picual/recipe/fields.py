"""Values of a recipe against the types that passes, metrics and data sets declare, with errors in plain words."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from picual.errors import nearest
from picual.recipe import sizes
from picual.recipe.secrets import is_kept_quiet, without_secrets

_PLAIN_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false"}


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: its name, the sentence and the hint; the caller knows where it stands."""

    field: str
    what: str
    hint: str = ""


def coerce(kind: type[Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldProblem]]:
    """Fit what a recipe gives to the fields of a dataclass (a pass, a metric, ``DataConfig``).

    A text is never taken for a number, nor a number for a text; a whole number does for a real one and a list
    for a tuple. A field of unit ``byte`` also takes a size (``8GB``). A search domain fits no field: in a
    step each is decided before.

    Returns:
        The values that fit, as plain values and tuples, and a problem for every field that does not.
    """
    declared = {item.name: item for item in dataclasses.fields(kind)}
    hints = hints_of(kind)
    values: dict[str, Any] = {}
    problems: list[FieldProblem] = []
    for name, value in given.items():
        if name not in declared:
            problems.append(_unknown(name, declared, getattr(kind, "name", "")))
            continue
        if is_search(value):
            what = f"`{name}` cannot be searched: only fields of passes can"
            problems.append(FieldProblem(name, what, f"give `{name}` one value"))
            continue
        if declared[name].metadata.get("unit") == "byte" and isinstance(value, str):
            value = sizes.bytes_of(value) or value  # noqa: PLW2901  # the same value, read
        fits, fitted = fit(hints[name], value)
        if fits:
            values[name] = fitted
            continue
        what = complaint(name, value, hints[name])
        if declared[name].metadata.get("unit") == "byte":
            what = f"`{name}` is {shown(value)}; it must be a size, such as `8GB`"
        problems.append(FieldProblem(name, what, near_choice(value, hints[name])))
    for item in declared.values():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in given:
            meaning = item.metadata.get("help", "")
            problems.append(FieldProblem(item.name, f"`{item.name}` is missing", f"`{item.name}`: {meaning}"))
    return values, problems


def is_search(value: Any) -> bool:
    """Say whether a value is a search domain: `{search: [...]}`."""
    return isinstance(value, Mapping) and set(value) == {"search"}


def fit(hint: Any, value: Any) -> tuple[bool, Any]:
    """Return whether ``value`` (plain JSON data) is of the type ``hint``, and the value as that type."""
    from pydantic import ValidationError

    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # not plain data, which only a recipe made in Python can hold
        return False, value
    try:
        return True, _adapter(hint).validate_json(text, strict=True)
    except ValidationError:
        return False, value


def complaint(name: str, value: Any, hint: Any) -> str:
    """Return the sentence for a value of the wrong type."""
    said = "a text that is not shown" if is_kept_quiet(name, value) else shown(value)
    return f"`{name}` is {said}; it must be {words_for(hint)}"


def shown(value: Any) -> str:
    """Return a value as the file might write it, shortened."""
    text = without_secrets(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 60 else f"{text[:57]}..."


def words_for(hint: Any) -> str:
    """Describe a type: ``a whole number``, ``4 or 8``, ``a list of texts``."""
    if hint in _PLAIN_WORDS:
        return _PLAIN_WORDS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return words_for(arguments[0])
    if origin is Literal:
        return _either([str(value) if isinstance(value, int) else f"`{value}`" for value in arguments])
    if origin in {Union, types.UnionType}:
        return _either([words_for(one) for one in arguments if one is not type(None)])
    if origin in {tuple, list}:
        return _words_for_list(arguments[0])
    return "anything" if hint is Any else "a mapping"


def _words_for_list(inner: Any) -> str:
    if inner is Any:
        return "a list"
    return f"a list of {_PLURALS[inner]}" if inner in _PLURALS else f"a list, each part {words_for(inner)}"


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values that a type allows, when it lists them."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for one in get_args(hint) for choice in choices_of(one)) if get_origin(hint) else ()


def near_choice(value: Any, hint: Any) -> str:
    """Return a hint with the allowed words nearest to ``value``, when the type lists its words."""
    choices = [choice for choice in choices_of(hint) if isinstance(choice, str)]
    return nearest(value, choices) if isinstance(value, str) and choices else ""


def hints_of(kind: type[Any]) -> Mapping[str, Any]:
    """Return the types of the fields of a dataclass."""
    return _hints_of(cast("Hashable", kind))


@functools.cache  # a search asks for the same few in every trial, and each takes a millisecond
def _hints_of(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_without_subclasses(hint))


def _without_subclasses(hint: Any) -> Any:
    """Replace our own mapping type, which pydantic does not know, by a plain one."""
    if isinstance(hint, type) and issubclass(hint, dict) and hint is not dict and get_origin(hint) is None:
        return dict[str, Any]
    if get_origin(hint) in {Union, types.UnionType}:
        return Union[tuple(_without_subclasses(one) for one in get_args(hint))]  # noqa: UP007  # built at run time
    return hint


def _unknown(name: str, declared: Mapping[str, Any], owner: str) -> FieldProblem:
    hint = nearest(name, list(declared))
    if not hint and declared and owner:
        hint = f"`picual passes show {owner}` lists the parameters"
    return FieldProblem(name, f"unknown parameter `{name}`", hint)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
