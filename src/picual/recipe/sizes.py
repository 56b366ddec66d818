"""Sizes as people write them: `110MB` is 110 * 10^6 bytes, `8GiB` is 8 * 2^30."""

from __future__ import annotations

import re

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def bytes_of(text: str) -> int | None:
    """Return the bytes that ``text`` stands for, or None when it is not a size."""
    match = _SIZE.fullmatch(text)
    if match is None or match.group(2).lower() not in _UNITS:
        return None
    return round(float(match.group(1)) * _UNITS[match.group(2).lower()])


def text_of(size: int) -> str:
    """Return the shortest exact way to write ``size`` bytes."""
    exact = [(size // unit, name) for name, unit in _UNITS.items() if unit > 1 and size and size % unit == 0]
    number, name = min(exact, default=(size, "b"))
    return f"{number}{name.upper().replace('I', 'i')}"
