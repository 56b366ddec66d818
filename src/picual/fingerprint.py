"""Values to digests: type-tagged canonical bytes, so that ``1``, ``"1"`` and ``True`` never collide.

The encoding is part of every cache key: changing it empties every store, so tests hold its very bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def canonical(value: Any) -> bytes:  # noqa: PLR0911  # one return a type reads as the table it is
    """Encode ``value`` so that equal values of equal types, and only those, give equal bytes.

    Lists and tuples are the same sequence; the order of a mapping's keys does not matter; a path is not
    a value (its text depends on the machine), so it is refused.

    Raises:
        TypeError: A value that has no canonical form.
    """
    match value:
        case str():  # most values are: digests are a fifth of what a search takes the driver
            text = value.encode()
            return b"s%d:%b;" % (len(text), text)
        case None:
            return b"n;"
        case bool():
            return b"b1;" if value else b"b0;"
        case int():
            return b"i%d;" % value
        case float():
            return b"f" + struct.pack(">d", value + 0.0) + b";"
        case dict() | Mapping():
            pairs = sorted([canonical(key) + canonical(item) for key, item in value.items()])
            return b"d%d:%b;" % (len(pairs), b"".join(pairs))
        case bytes():
            return b"y%d:" % len(value) + value + b";"
        case tuple() | list():
            return b"l%d:%b;" % (len(value), b"".join([canonical(item) for item in value]))
        case _ if is_dataclass(value) and not isinstance(value, type):
            named = {field.name: getattr(value, field.name) for field in fields(value)}
            return b"c" + canonical(type(value).__name__) + canonical(named) + b";"
    raise TypeError(f"{type(value).__name__} has no canonical form")


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical bytes, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_under(folder: Path) -> Iterator[Path]:
    """Yield every file below ``folder`` in a fixed order; linked folders are not followed."""
    yield from sorted(Path(name) for name in _names_under(os.fspath(folder)))


def _names_under(folder: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # missing, or closed to us: as `os.walk` has it
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _names_under(entry.path)
        elif entry.is_file():
            yield entry.path


def folder_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for a folder, given the digest of each file by its name relative to the folder."""
    return digest(dict(digests))
