"""Values that a search may choose, as `{search: [...]}`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from picual.recipe.fields import is_search


def domain_of(values: Iterable[Any]) -> Any:
    """Return the domain of some values without repeats; a single value is no choice and stands for itself."""
    known = {f"{type(value).__name__} {value}": value for value in values}  # 1 and true are two values
    found = list(known.values())
    return found[0] if len(found) == 1 else {"search": found}


def values_of(value: Any) -> list[Any]:
    """Return the values of a domain, or a plain value as the only one."""
    return list(value["search"]) if is_search(value) else [value]


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value changed, or the domain of every value of a domain changed."""
    return domain_of(change(one) for one in values_of(value)) if is_search(value) else change(value)


def listed(values: Iterable[Any]) -> str:
    """Return values as a sentence names them: `16, 32 or 64`."""
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
