"""The user's conda file as a job's environment: what of it cannot hold Picual is replaced, each with a note."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from picual.errors import BadValue

PYTHON = "3.11"
OLDEST = (3, 11)
# Packages that the worker brings in a form of its own, under their old names.
_REPLACED = re.compile(r"^(olive-ai|olive_ai|ort-nightly|ort_nightly|onnxruntime-training)", re.IGNORECASE)
_OLIVE = re.compile(r"(#egg=|/)olive(-ai)?\b", re.IGNORECASE)
_NIGHTLY = re.compile(r"ORT-Nightly|onnxruntime-genai/pypi", re.IGNORECASE)
_NAME = re.compile(r"^([A-Za-z0-9._-]+)")


def adapted(given: Mapping[str, Any], requirements: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a conda specification that Picual's worker runs in, and a note for every change.

    Args:
        given: The user's, as its YAML file reads.
        requirements: What the worker needs, as pip takes it.

    Raises:
        BadValue: It is no conda specification.
    """
    dependencies = given.get("dependencies")
    if not isinstance(dependencies, list):
        raise BadValue("the conda file has no list `dependencies`", hint="`dependencies: [python=3.11, pip, ...]`")
    notes: list[str] = []
    conda = [_python(one, notes) for one in dependencies if isinstance(one, str)]
    if not any(_name_of(one) == "python" for one in conda):
        conda.insert(0, f"python={PYTHON}")
        notes.append(f"python {PYTHON} is added")
    if not any(_name_of(one) == "pip" for one in conda):
        conda.append("pip")
    pip = [one for entry in dependencies if isinstance(entry, dict) for one in entry.get("pip") or []]
    kept = [line for line in map(str, pip) if not _left_out(line, notes)]
    merged = _merged(kept, requirements, notes)
    return {**given, "dependencies": [*conda, {"pip": merged}]}, notes


def _python(entry: str, notes: list[str]) -> str:
    found = re.fullmatch(r"python\s*(=+|<=|>=|<|>)?\s*([\d.]*)[\w.*]*", entry.strip())
    if found is None or not found[2] or found[1] in {">=", ">"}:
        return entry
    version = tuple(int(part) for part in found[2].split(".")[:2] if part)
    if len(version) < 2 or version >= OLDEST:
        return entry
    notes.append(f"`{entry}` is replaced by python {PYTHON}: the worker needs it")
    return f"python={PYTHON}"


def _left_out(line: str, notes: list[str]) -> bool:
    if _OLIVE.search(line) or _REPLACED.match(line):
        notes.append(f"`{_short(line)}` is left out: Picual's own worker and its runtime stand in its place")
        return True
    if line.startswith(("--extra-index-url", "--index-url", "-i ")) and _NIGHTLY.search(line):
        notes.append("an index of nightly builds is left out: nothing is taken from it any more")
        return True
    return False


def _merged(kept: Sequence[str], requirements: Sequence[str], notes: list[str]) -> list[str]:
    """Return the user's lines and those that the worker needs, one a package.

    An exact version of the user's stays alone: whether the worker can live with it, pip and the job say.
    """
    wanted = {_name_of(one): one for one in requirements}
    lines: list[str] = []
    for line in kept:
        ours = wanted.pop(_name_of(line), None)
        if ours is not None and "==" in line:
            notes.append(f"`{line}` is kept as pinned: the worker is made for `{ours}`")
        lines.append(line if ours is None or "==" in line else _both(line, ours))
    return [*lines, *wanted.values()]


def _both(line: str, ours: str) -> str:
    """Return one requirement that says what two say."""
    bounds = line.partition(";")[0].strip()[len(_NAME.match(line)[1]) :].strip()  # type: ignore[index]  # it has a name
    if not bounds or bounds.startswith("["):
        return ours
    wanted, mark, marker = ours.partition(";")
    return f"{wanted.strip()},{bounds}{mark}{marker}"


def _name_of(line: str) -> str:
    found = _NAME.match(line.strip())
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def _short(line: str) -> str:
    return line if len(line) <= 60 else line[:57] + "..."
