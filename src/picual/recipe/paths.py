"""Paths that are not there, and those that may have been meant."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path


def near_files(path: Path, folder: Path) -> str:
    """Return a hint with what lies near a missing ``path``, named relative to the recipe's ``folder``."""
    parent = path.parent
    if not parent.is_dir():
        missing = next(one for one in path.parents if one.parent.is_dir() and not one.is_dir())
        near = _closest(missing, folder, folders=True)
        return f"there is no folder `{named(missing, folder)}`" + (f"; {near}" if near else "")
    return _closest(path, folder, folders=False)


def _closest(path: Path, folder: Path, *, folders: bool) -> str:
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or not folders]
    close = get_close_matches(path.name, names, n=3, cutoff=0.5)
    found = [f"`{named(path.parent / name, folder)}`" for name in close]
    return "did you mean " + " or ".join(found) + "?" if found else ""


def named(path: Path, folder: Path) -> str:
    """Return a path as the recipe would write it, where it is not far from the recipe."""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if relative.count("../") <= 2 else path.as_posix()
