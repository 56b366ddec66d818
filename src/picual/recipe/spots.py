"""Where a mistake stands, in words, and mistakes in the order of the file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from picual.errors import Problem
from picual.recipe.schema import Place, Recipe, StepSpec

_LINE = re.compile(r"line (\d+)")
SETTING = "--set "  # how the place of a value from the command line begins


def spot(place: Place, *, step: str = "", path: str = "") -> str:
    """Return `line 14, step 3 lora`, or what of it is known.

    Args:
        place: In the file.
        step: Number and name of the step, if it is in one.
        path: Dotted path of the value, which stands in for a line when there is none.
    """
    if place.file.startswith(SETTING):
        first = f"`{place.file}`"
    elif place.line:
        first = f"line {place.line}"
    else:
        first = "" if step else path
    return ", ".join(part for part in (first, step) if part) or "recipe"


def step_words(recipe: Recipe, step: StepSpec) -> str:
    """Return a step's number and name."""
    return f"step {recipe.steps.index(step) + 1} `{step.name}`"


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems by line, each once; what has no line comes last."""
    return sorted(dict.fromkeys(problems), key=_line_of)


def _line_of(problem: Problem) -> int:
    match = _LINE.match(problem.where)
    return int(match.group(1)) if match else 1 << 30
