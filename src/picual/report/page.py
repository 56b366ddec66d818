"""``report.html``: one file that needs no network, made from ``report.json`` alone.

Every text of the report is escaped by the template. The page forbids, by its content security policy, all requests
and all scripts but its own, so that a text that got through could still do nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.report import stages, steps, trials
from picual.report.constraints import constraints_of
from picual.report.numbers import compact
from picual.report.reading import mapping
from picual.report.verdict import verdict_of

if TYPE_CHECKING:
    import jinja2
    import markupsafe

FACTS = ("recipe", "recipe_text", "model", "created")  # shown as they are
ASSETS = Path(__file__).parents[1] / "assets" / "report"


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report."""
    style, script = (ASSETS / "style.css").read_text("utf-8"), (ASSETS / "page.js").read_text("utf-8")
    return templates().get_template("page.html.jinja").render(
        **content(report), style=style, script=script, policy=_policy(style, script)
    )  # fmt: skip


def content(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page and the text show."""
    table = trials.trial_table(report)
    plot = trials.plot(report, table)
    return {
        "facts": {name: str(report.get(name) or "") for name in FACTS},
        "trusted": bool(report.get("trust_remote_code")),
        "verdict": verdict_of(report),
        "comparison": stages.comparison(report),
        "constraints": constraints_of(report),
        "search": mapping(report.get("search")),
        "trials": table,
        "plot": plot,
        "plot_data": None if plot is None else script_json(plot.to_wire()),
        "timeline": steps.timeline(report),
        "work_done": steps.work_done(report),
        "curves": steps.curve_charts(report),
        "confusions": stages.confusions(report),
        "class_tables": stages.class_tables(report),
        "examples": stages.examples(report),
        "layer_errors": steps.layer_errors(report),
        "checks": steps.checks(report),
        "remarks": steps.remarks(report),
        "environment": environment_of(report),
        "stage_titles": stages.titles(report),
    }


def environment_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where a run took place: machine, target and libraries."""
    known = mapping(report.get("environment"))
    tables = {name: mapping(known.get(name)) for name in ("target", "libraries")}
    return {**known, **tables} if known else {}


@functools.cache
def templates(*, autoescape: bool = True) -> jinja2.Environment:
    """Return the environment that fills the templates; by default it escapes for HTML."""
    import jinja2

    environment = jinja2.Environment(  # Markdown has marks of its own, see picual.report.markdown
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["compact"] = compact
    environment.filters["prose"] = prose
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"
    return environment


def prose(text: Any) -> markupsafe.Markup:
    """Return a sentence of ours as HTML: what stands in backquotes as code, everything escaped."""
    import markupsafe

    parts = str(text).split("`")
    if len(parts) % 2 == 0:  # one without its partner
        return markupsafe.escape(text)
    code = markupsafe.Markup("<code>{}</code>")
    return markupsafe.Markup("").join(
        code.format(part) if number % 2 else markupsafe.escape(part) for number, part in enumerate(parts)
    )


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a ``script`` element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
