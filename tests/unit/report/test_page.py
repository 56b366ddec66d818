"""The page says what the report says, whatever stands in it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picual import report as reporting
from picual.report.page import ASSETS, script_json
from picual.testing.sample_report import sample_report

Read = Callable[[str], Any]
EVIL = "</script ></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}"


@pytest.mark.parametrize("fits", [True, False])
def test_the_sample_is_as_the_schema_says(fits: bool) -> None:
    jsonschema.validate(sample_report(fits=fits), reporting.schema())


def test_the_schema_refuses_a_trial_in_a_state_that_there_is_not(report: dict[str, Any]) -> None:
    report["trials"][0]["state"] = "lost"

    with pytest.raises(jsonschema.ValidationError, match="lost"):
        jsonschema.validate(report, reporting.schema())


def test_the_verdict_comes_first_with_size_and_change(report: dict[str, Any], read_page: Read) -> None:
    page = read_page(reporting.page(report))
    best = report["best"]["size"]["size_mb"]
    smaller = 100 * (1 - best / report["baseline"]["size"]["size_mb"])

    assert page.text_of("h1") == f"Verified: a model of {best:.1f} MB, {smaller:.0f} % smaller than the baseline"
    assert f"Trial {report['search']['best']} won:" in page.text
    assert page.text.index("Trial ") < page.text.index("Before and after")


def test_numbers_and_their_intervals_stand_side_by_side(report: dict[str, Any], read_page: Read) -> None:
    text = read_page(reporting.page(report)).text

    row = text[text.index("accuracy (%) goal") :][:160]
    low, high = report["unquantized"]["accuracy"]["intervals"]["accuracy"]
    assert "2.1" in row
    assert f"88.3 {100 * low:.1f} to {100 * high:.1f} %" in row
    lost = 88.3 - round(100 * report["best"]["accuracy"]["accuracy"], 1)
    assert f"\N{MINUS SIGN}{lost:.1f} points within the noise" in row


def test_nothing_fits_names_the_closest_and_how_far_each_limit_is(read_page: Read) -> None:
    report = sample_report(fits=False)
    size = next(limit for limit in report["constraints"] if limit["metric"] == "size")

    page = read_page(reporting.page(report))

    assert page.text_of("h1") == "No candidate meets the limits"
    assert f"Trial {report['search']['closest']} comes closest" in page.text
    assert f"would have to move by {size['gap']:.1f} MB" in page.text
    assert "Accuracy was not measured" in page.text


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [
        ("NotVerified", "The model did not pass verification"),
        ("UnreadableModel", "A step did not finish"),
        ("MissingDependency", "This machine lacks something"),
        ("Busy", "The store could not be used"),
        ("Interrupted", "The run was interrupted"),
        ("SomethingNew", "The run stopped: SomethingNew"),
    ],
)
def test_a_failure_is_named_by_its_branch(
    bare: dict[str, Any], read_page: Read, verdict: str, headline: str
) -> None:
    page = read_page(reporting.page(bare | {"verdict": verdict}))

    assert page.text_of("h1") == headline
    assert "found no MatMul" in page.text
    assert "recipe.yaml:9" in page.text
    assert "Hint: drop it" in page.text


def test_sections_without_content_are_left_out(
    bare: dict[str, Any], report: dict[str, Any], read_page: Read
) -> None:
    less, more = read_page(reporting.page(bare)), read_page(reporting.page(report))

    assert not [tag for tag, _ in less.elements if tag in {"section", "table", "h2"}]
    sections = ["numbers", "limits", "plot-section", "trials-section", "steps", "curves", "classes", "layers"]
    assert {*sections, "checks", "remarks", "environment", "recipe"} <= set(more.ids())
    assert not set(sections) & set(less.ids())


def test_every_link_leads_to_a_section_and_ids_are_unique(report: dict[str, Any], read_page: Read) -> None:
    page = read_page(reporting.page(report))
    links = [attributes["href"][1:] for tag, attributes in page.elements if tag == "a"]

    assert len(links) > 10
    assert set(links) <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))
    assert page.unbalanced == []
    assert page.open == []


def test_every_table_has_a_caption_and_scopes(report: dict[str, Any], read_page: Read) -> None:
    page = read_page(reporting.page(report))
    tags = [tag for tag, _ in page.elements]

    assert tags.count("table") == tags.count("caption") > 8
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in page.elements if tag == "th")


def test_headings_skip_no_level(report: dict[str, Any], read_page: Read) -> None:
    levels = [int(tag[1]) for tag, _ in read_page(reporting.page(report)).elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_names_nothing_outside_itself(report: dict[str, Any], read_page: Read) -> None:
    elements = read_page(reporting.page(report)).elements
    named = [attributes.get(name, "") for _, attributes in elements for name in ("src", "href", "data", "srcset")]

    assert {value[:1] for value in named if value} == {"#", "d"}  # places in the page, and the empty icon
    assert [value for value in named if value.startswith("d")] == ["data:,"]
    assert "@import" not in reporting.page(report)
    assert "url(" not in reporting.page(report)


def test_texts_from_outside_cannot_become_html(report: dict[str, Any], read_page: Read) -> None:
    """Names, answers, reasons and settings are all of them replaced by an attack."""
    clean = read_page(reporting.page(report))
    poisoned = _poisoned(report)

    page = read_page(reporting.page(poisoned))

    assert (
        [tag for tag, _ in page.elements].count("script")
        == [tag for tag, _ in clean.elements].count("script")
        == 2
    )
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.unbalanced == []
    assert EVIL in page.text
    assert "49" not in page.text_of("h1")


def _poisoned(value: Any) -> Any:
    """Return a report with every free text, and every name that a user or a model gives, replaced."""
    keys = {
        "recipe", "recipe_text", "output", "model", "created", "what", "hint", "where", "why", "detail", "prompt",
        "expected", "answer", "changed", "how", "skipped", "note", "text", "path", "bound", "sampler", "stopped",
        "labels", "device", "name", "pass",
    }  # fmt: skip
    if isinstance(value, dict):
        return {
            (f"{EVIL}{key}" if key in {"lora.rank", "torch", "joy", "provider"} else key): (
                [EVIL for _ in item] if key == "labels" else EVIL if key in keys and item else _poisoned(item)
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return EVIL if value in {"int4", "int8"} else value


def test_data_of_the_script_cannot_end_it(report: dict[str, Any], read_page: Read) -> None:
    for trial in report["trials"]:
        trial["metrics"] = {f"{EVIL}{name}": values for name, values in trial["metrics"].items()}

    assert not set("<>&") & set(script_json({EVIL: EVIL}))
    assert json.loads(script_json({EVIL: EVIL})) == {EVIL: EVIL}
    page = read_page(reporting.page(report))
    data = json.loads(next(text for tag, text in page.texts if tag == "script"))

    assert any(EVIL in axis["title"] for axis in data["axes"])


def test_the_policy_allows_only_the_pages_own_script(report: dict[str, Any], read_page: Read) -> None:
    elements = read_page(reporting.page(report)).elements
    policy = next(attributes["content"] for _, attributes in elements if "http-equiv" in attributes)

    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [attributes for _, attributes in elements if "style" in attributes]


def test_fifty_trials_stay_below_150_kilobytes() -> None:
    assert len(reporting.page(sample_report(trials=50)).encode()) < 150_000


def test_a_page_is_a_function_of_the_report_alone(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report))

    assert reporting.page(report) == reporting.page(again)
    assert again == report


def test_a_report_of_the_first_version_still_makes_a_page(read_page: Read) -> None:
    old = sample_report()
    for key in ("search", "measures", "recipe_text"):
        del old[key]
    old |= {"trials": [], "constraints": []}
    for step in old["steps"]:
        del step["start"], step["curves"]

    jsonschema.validate(old, reporting.schema())
    page = read_page(reporting.page(old))

    assert "Before and after" in page.text
    assert "Trials" not in page.text


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf, 1e300, 0.0, None, "fast", [1], {"a": 1}, True])
def test_strange_numbers_break_nothing(report: dict[str, Any], strange: Any) -> None:
    for place in (report["best"], report["baseline"], report["trials"][0]["metrics"]):
        place["divergence"] = {"kl": strange, "intervals": {"kl": [strange, strange]}}
    report["constraints"][0] |= {"value": strange, "limit": strange, "gap": strange}
    report["steps"][0]["curves"]["loss"][3] = [3, strange]
    report["steps"][2]["journal"][5]["error"] = strange
    report["trials"][1]["candidate"]["lora.rank"] = strange

    assert "Before and after" in reporting.page(report)
    assert "## Before and after" in reporting.markdown(report)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**9) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.dictionaries(st.text(max_size=6), JSON, max_size=3), number=st.integers(0, 3))
def test_any_values_of_any_metric_make_a_page(values: dict[str, Any], number: int) -> None:
    """A user's own metric returns what it likes."""
    report = sample_report(trials=5)
    for stage in ("baseline", "best", "data"):
        report[stage] = {"own": values, **report[stage]}
    report["trials"][number]["metrics"]["own"] = values

    assert "</html>" in reporting.page(report)
    assert reporting.markdown(report)


# -- colours -------------------------------------------------------------------------------------------


def _themes() -> dict[str, dict[str, str]]:
    style = (ASSETS / "style.css").read_text()
    light, dark = re.findall(r":root \{([^}]*)\}", style)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return {"light": found, "dark": found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXTS = [
    *((text, ground) for text in ("ink", "soft", "link") for ground in ("page", "card")),
    *((text, "card") for text in ("good", "bad", "limit")),
    *((text, ground) for text in ("ink", "soft", "good", "bad") for ground in ("chosen", "picked")),
    ("good", "good-tint"), ("bad", "bad-tint"), ("card", "ink"),
    *(("on-heat", f"heat-{shade}") for shade in range(1, 6)),
]  # fmt: skip
SHAPES = [
    *((shape, "card") for shape in ("accent", "good", "bad", "edge", "soft", "limit")),
    *((f"line-{number}", "card") for number in range(4)), ("edge", "page"), ("accent", "line"),
]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = _themes()[theme]

    low = {pair: _contrast(*(colours[name] for name in pair)) for pair in TEXTS}
    assert {pair: found for pair, found in low.items() if found < 4.5} == {}
    low = {pair: _contrast(*(colours[name] for name in pair)) for pair in SHAPES}
    assert {pair: found for pair, found in low.items() if found < 3} == {}


def test_both_themes_define_the_same_colours_and_the_sheet_uses_no_other() -> None:
    style = (ASSETS / "style.css").read_text()
    light, dark = (set(re.findall(r"--([\w-]+):", block)) for block in re.findall(r":root \{([^}]*)\}", style))

    assert light == dark
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) <= light
    assert not re.findall(r"#[0-9a-f]{3,6}\b", re.sub(r":root \{[^}]*\}", "", style))
