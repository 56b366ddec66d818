"""Made-up reports, and a reader of pages that is not a browser."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from picual.testing.sample_report import sample_report

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Reader(HTMLParser):
    """What a page says: its elements in order, texts by element, and whether they close as they open."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_of(self, tag: str) -> str:
        """Return what stands directly in elements of a kind, blanks made single."""
        return " ".join(" ".join(text for name, text in self.texts if name == tag).split())

    @property
    def text(self) -> str:
        """Return all that a person reads, blanks made single."""
        return " ".join(" ".join(text for name, text in self.texts if name not in {"script", "style"}).split())

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture
def read_page() -> Callable[[str], Reader]:
    return Reader


@pytest.fixture
def report() -> dict[str, Any]:
    return sample_report()


@pytest.fixture
def bare() -> dict[str, Any]:
    """The least a report can be: a run that stopped before anything was done."""
    return {
        "version": 1, "verdict": "Refused", "model": None, "steps": [],
        "error": {
            "error": "Refused", "what": "`build-genai` found no MatMul", "where": "recipe.yaml:9",
            "hint": "drop it",
        },
    }  # fmt: skip
