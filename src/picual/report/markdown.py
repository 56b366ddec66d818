"""``report.md``: the report for a terminal, a pull request or a chat, made from ``report.json`` alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from picual.report.page import content, templates

# What would start a cell, a link, an emphasis, a heading or HTML. An underscore inside a word starts nothing.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&#]|(?<!\w)_|_(?!\w)")


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    environment = templates(autoescape=False)  # each text goes through one of these instead
    environment.filters |= {"plain": plain, "code": code, "fenced": fenced}
    text = environment.get_template("report.md.jinja").render(content(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def plain(text: Any) -> str:
    """Return a text on one line that Markdown shows as it is; what stands in backquotes stays code."""
    parts = " ".join(str(text).split()).split("`")
    if len(parts) % 2 == 0:  # one without its partner
        return _escaped("`".join(parts))
    return "".join(code(part) if number % 2 and part else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: "\\" + found[0], text)


def code(text: Any) -> str:
    """Return a text as code on one line, with as many backquotes around it as it needs."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if fence == "`" else f"{fence} {line} {fence}"


def fenced(text: str) -> str:
    """Return lines as a block of code that nothing in them can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
