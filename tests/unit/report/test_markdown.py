"""The text says what the report says, and Markdown shows it as it is."""

from __future__ import annotations

from typing import Any

import pytest

from picual import report as reporting
from picual.report.markdown import code, fenced, plain


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    lines = text.split(f"## {heading}\n", 1)[1].strip().splitlines()
    table = [line for line in lines[: lines.index("") if "" in lines else None] if line.startswith("|")]
    return [[cell.strip() for cell in line.replace("\\|", "&#124;").strip("|").split("|")] for line in table]


def test_the_text_holds_verdict_numbers_limits_trials_and_recipe(report: dict[str, Any]) -> None:
    text = reporting.markdown(report)

    assert text.startswith("# Verified: a model of ")
    accuracy = next(row for row in rows(text, "Before and after") if row[0] == "accuracy")
    assert accuracy[1].startswith("2.1 %")
    assert [row[2] for row in rows(text, "Limits")[2:]] == [
        f"{100 * report['best']['accuracy']['accuracy']:.1f} %",
        f"{report['best']['size']['size_mb']:.1f} MB",
    ]
    assert len(rows(text, "Trials")) == 2 + len(report["trials"])
    assert f"```yaml\n{report['recipe_text']}```\n" in text


@pytest.mark.parametrize("heading", ["Before and after", "Limits", "Trials", "Steps"])
def test_every_row_has_as_many_cells_as_its_heading(report: dict[str, Any], heading: str) -> None:
    report["trials"][0]["why"] = "a | b\nc"
    table = rows(reporting.markdown(report), heading)

    assert len(table) > 2
    assert {len(row) for row in table} == {len(table[0])}


def test_a_bare_report_is_a_verdict(bare: dict[str, Any]) -> None:
    text = reporting.markdown(bare)

    assert text.startswith("# A step did not finish\n")
    assert "##" not in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", "a\\|b"),
        ("<b>", "\\<b\\>"),
        ("[x](y)", "\\[x\\](y)"),
        ("ms_per_token", "ms_per_token"),
        ("_kept_", "\\_kept\\_"),
        ("two\nlines", "two lines"),
        ("use `lm_head: int8` | more", "use `lm_head: int8` \\| more"),
        ("one ` alone", "one \\` alone"),
    ],
)
def test_a_text_shows_as_it_is(text: str, written: str) -> None:
    assert plain(text) == written


def test_code_is_ended_by_nothing_in_it() -> None:
    assert code("a`b") == "`` a`b ``"
    assert fenced("x\n````\ny").splitlines()[0] == "`````yaml"
