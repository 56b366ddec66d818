"""The report of a run: ``report.json``, and what is made of it alone: a page, a text, a comparison."""

from picual.report.build import build
from picual.report.compare import compare
from picual.report.files import SCHEMA, read, schema, write, write_markdown, write_page
from picual.report.markdown import markdown
from picual.report.page import page

__all__ = [
    "build",
    "compare",
    "markdown",
    "page",
    "read",
    "schema",
    "write",
    "write_markdown",
    "write_page",
    "SCHEMA",
]
