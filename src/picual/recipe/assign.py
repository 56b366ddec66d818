"""`--set passes.lora.rank=8`: one value of the native form, given on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.errors import BadValue, UnknownName, nearest
from picual.recipe import yaml_text
from picual.recipe.native import KEYS
from picual.recipe.schema import Place
from picual.recipe.spots import SETTING

Keys = tuple[str | int, ...]
_NAMED = ("data", "passes", "metrics", "hosts")  # sections whose entries the recipe names itself


def assign(value: dict[str, Any], settings: tuple[str, ...]) -> dict[Keys, Place]:
    """Put ``PATH=VALUE`` settings into a native mapping, in place.

    Args:
        value: The native form, which this changes.
        settings: Each a dotted path, `=`, and a value as YAML reads it.

    Returns:
        Where each assigned path comes from.

    Raises:
        BadValue: A setting has no `=`, or a path leads through something that is not a mapping.
        UnknownName: A path names a section or an entry that is not there; the nearest are in the hint.
    """
    places: dict[Keys, Place] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        where = SETTING + setting
        if not equals or not path.strip():
            raise BadValue(f"`{where}` sets nothing", where=where, hint="write `--set passes.lora.rank=8`")
        new = _read(text, where)
        keys = _keys(value, path.strip(), where, adds=isinstance(new, dict))
        _put(value, keys, new, where)
        places[keys] = Place(file=where)
    return places


def _read(text: str, where: str) -> Any:
    try:
        return yaml_text.value_of(text)
    except BadValue as error:
        raise BadValue(
            f"`{text}` is not a value: {error.what}", where=where, hint="quote a text that holds `: `, `{` or `[`"
        ) from None


def _keys(value: Mapping[str, Any], path: str, where: str, *, adds: bool) -> Keys:
    """Split a dotted path; a name that holds dots itself is recognised when the recipe has it.

    A whole new entry may be added, but no pass: a step's place among the others matters.
    """
    section, _, rest = path.partition(".")
    if section not in KEYS:
        raise UnknownName(f"`{section}` is not a part of a recipe", where=where, hint=nearest(section, KEYS))
    if not rest:
        return (section,)
    if section not in _NAMED:
        return (section, *rest.split("."))
    entries = value.get(section) if isinstance(value.get(section), Mapping) else {}
    names = [str(name) for name in entries or {}]
    matching = [name for name in names if rest == name or rest.startswith(f"{name}.")]
    if not matching and adds and section != "passes" and "." not in rest:
        return (section, rest)
    if not matching:
        name = rest.split(".")[0]
        raise UnknownName(f"the recipe has no `{section}.{name}`", where=where, hint=nearest(name, names))
    name = max(matching, key=len)
    remaining = rest[len(name) + 1 :]
    return (section, name, *(remaining.split(".") if remaining else ()))


def _put(value: dict[str, Any], keys: Keys, new: Any, where: str) -> None:
    here = value
    for depth, key in enumerate(keys[:-1], 1):
        inside = here.get(str(key))
        if inside is None:
            inside = {}
        elif isinstance(inside, str) and keys[:depth] == ("model",):
            inside = {"uri": inside}
        elif not isinstance(inside, dict):
            raise BadValue(
                f"`{'.'.join(map(str, keys[:depth]))}` has no parts to set",
                where=where,
                hint=f"set all of it: `--set {'.'.join(map(str, keys[:depth]))}=...`",
            )
        here[str(key)] = inside
        here = inside
    here[str(keys[-1])] = new
