"""The report page in a real browser, without a network, by clicking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from picual import report as reporting
from picual.testing import browser
from picual.testing.sample_report import sample_report

THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
# Of every text that can be seen: how its colour stands out from what lies behind it.
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  return 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
    if (colour[3] !== 0) return null;
  }
  return [255, 255, 255];
};
for (const element of document.querySelectorAll("details")) element.open = true;
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest("script")) continue;
  const style = getComputedStyle(element);
  const ground = behind(element);
  const ink = parse(element instanceof SVGElement ? style.fill : style.color);
  const [high, low] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
  found.push([(high + 0.05) / (low + 0.05), walker.currentNode.textContent.trim().slice(0, 40)]);
}
return found;
"""

# Everything in the plot with where it stands, in any order.
DRAWN = """
const names = ["x", "y", "dx", "dy", "x1", "x2", "y1", "y2", "points", "text-anchor"];
return [...document.querySelectorAll("#plot line, #plot text, #plot use, #plot polyline")]
  .map((one) => [one.tagName, ...names.map((name) => one.getAttribute(name)), one.textContent.trim()].join())
  .sort();
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    if not browser.is_here():
        if os.environ.get("CI") or os.environ.get("PICUAL_REQUIRE_CHROMIUM"):
            pytest.fail("Chromium is not installed: apt-get install chromium chromium-driver")
        pytest.skip("Chromium is not installed")
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return sample_report()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("out")
    (folder / "report.json").write_text(json.dumps(report))
    return reporting.write_page(folder)


@pytest.fixture
def shown(driver: Chrome, page: Path) -> Iterator[Chrome]:
    """The page, freshly opened; nothing it does in a test may leave an error in the console."""
    browser.show(driver, page)
    yield driver
    assert driver.get_log("browser") == []


def column(driver: Chrome, name: str) -> list[str]:
    """Return the texts of a column of the trials that can be seen, by the start of its heading."""
    heads = driver.find_elements(By.CSS_SELECTOR, "#trials thead th")
    index = next(number for number, head in enumerate(heads, 1) if head.text.startswith(name))
    cells = driver.find_elements(By.CSS_SELECTOR, f"#trials tbody tr:not([hidden]) > :nth-child({index})")
    return [cell.text for cell in cells]


def head(driver: Chrome, name: str) -> WebElement:
    heads = driver.find_elements(By.CSS_SELECTOR, "#trials thead th")
    return next(one for one in heads if one.text.startswith(name))


def tip(driver: Chrome) -> str:
    found = driver.find_element(By.ID, "tip")
    return found.text if found.is_displayed() else ""


def mark(driver: Chrome, trial: int) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, f"use[data-trial='{trial}']")


def centre(element: WebElement) -> tuple[float, float]:
    x, y = element.parent.execute_script(
        "const at = arguments[0].getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2]",
        element,
    )
    return x, y


def test_the_page_opens_from_a_file_and_asks_for_nothing(driver: Chrome, page: Path) -> None:
    driver.get_log("performance")
    browser.show(driver, page)

    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert asked <= {page.as_uri(), "data:,"}
    assert page.as_uri() in asked  # the log does see requests
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert driver.find_element(By.TAG_NAME, "h1").text.endswith("% smaller than the baseline")
    assert driver.get_log("browser") == []


def test_a_script_that_got_through_would_not_run(driver: Chrome, page: Path, tmp_path: Path) -> None:
    """Second line of defence: the page's own policy."""
    text = page.read_text().replace("<main", "<script>document.title = 'taken'</script><main")
    text = text.replace("<main", '<img src="x" onerror="document.title = \'taken\'"><main')
    (tmp_path / "page.html").write_text(text)

    browser.show(driver, tmp_path / "page.html")

    assert driver.title != "taken"
    assert len(driver.get_log("browser")) >= 2  # the browser says that it refused


def test_names_that_attack_the_page_are_shown_as_they_are(driver: Chrome, tmp_path: Path) -> None:
    evil = "</script ><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    report = sample_report()
    for trial in report["trials"]:
        trial["metrics"] = {f"{name}{evil}": values for name, values in trial["metrics"].items()}
        trial["why"] = evil
    report["best"]["accuracy"]["examples"][0]["answer"] = report["recipe"] = evil
    (tmp_path / "report.json").write_text(json.dumps(report))

    browser.show(driver, reporting.write_page(tmp_path))

    axes = Select(driver.find_element(By.ID, "plot-y"))
    axes.select_by_visible_text(f"size{evil} (MB)")  # the data of the script is whole
    assert driver.find_element(By.ID, "plot-y-title").text == f"size{evil} (MB), lower is better"
    ActionChains(driver).move_to_element(driver.find_element(By.CSS_SELECTOR, "#plot-marks use")).perform()
    assert driver.title.endswith(evil)
    assert driver.find_elements(By.TAG_NAME, "img") == []
    assert driver.get_log("browser") == []


def test_a_click_on_a_heading_sorts_by_number_and_says_so(shown: Chrome) -> None:
    head(shown, "size").find_element(By.TAG_NAME, "button").click()
    sizes = column(shown, "size")
    numbers = [float(size) for size in sizes if size != "\N{EN DASH}"]

    assert numbers == sorted(numbers)
    assert sizes[: len(numbers)] == [f"{number:.1f}" for number in numbers]  # what is missing comes last
    assert head(shown, "size").get_attribute("aria-sort") == "ascending"

    head(shown, "size").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    again = column(shown, "size")
    assert [float(size) for size in again[: len(numbers)]] == numbers[::-1]
    assert set(again[len(numbers) :]) == {"\N{EN DASH}"}
    assert head(shown, "size").get_attribute("aria-sort") == "descending"

    head(shown, "build-genai.lm_head").find_element(By.TAG_NAME, "button").click()
    heads = column(shown, "build-genai.lm_head")
    assert heads == sorted(heads)
    assert len(set(heads)) == 2
    assert head(shown, "size").get_attribute("aria-sort") is None


def test_what_is_missing_comes_last_wherever_its_row_stood(driver: Chrome, tmp_path: Path) -> None:
    report = sample_report()
    for trial in report["trials"][::3]:
        trial["metrics"].pop("latency", None)
    (tmp_path / "report.json").write_text(json.dumps(report))
    browser.show(driver, reporting.write_page(tmp_path))

    before = [text == "\N{EN DASH}" for text in column(driver, "latency")]
    assert before != sorted(before)
    for _ in ("ascending", "descending"):
        head(driver, "latency").find_element(By.TAG_NAME, "button").click()
        missing = [text == "\N{EN DASH}" for text in column(driver, "latency")]
        assert missing == sorted(missing)


def test_text_and_state_filter_the_trials(shown: Chrome, report: dict[str, Any]) -> None:
    failed = [trial for trial in report["trials"] if trial["state"] == "failed"]

    Select(shown.find_element(By.ID, "trial-state")).select_by_value("failed")
    assert set(column(shown, "state")) == {"failed"}
    assert len(column(shown, "state")) == len(failed)
    shown.find_element(By.ID, "trial-text").send_keys("INFINITE loss")
    assert column(shown, "why") == [trial["why"] for trial in failed if "infinite" in trial["why"]]
    assert shown.find_element(By.ID, "trial-count").text == f"1 of {len(report['trials'])} shown"
    shown.find_element(By.ID, "trial-text").clear()
    shown.find_element(By.ID, "trial-text").send_keys("nowhere to be found")
    assert column(shown, "state") == []


def test_other_axes_move_the_trials_to_their_numbers(shown: Chrome, report: dict[str, Any]) -> None:
    Select(shown.find_element(By.ID, "plot-x")).select_by_visible_text("size (MB)")
    Select(shown.find_element(By.ID, "plot-y")).select_by_visible_text("latency (ms)")

    measured = [trial for trial in report["trials"] if "latency" in trial["metrics"]]
    places = {trial["number"]: centre(mark(shown, trial["number"])) for trial in measured}
    by_size = sorted(measured, key=lambda trial: trial["metrics"]["size"]["size_mb"])
    lefts = [places[trial["number"]][0] for trial in by_size]
    assert lefts == sorted(lefts)
    by_latency = sorted(measured, key=lambda trial: trial["metrics"]["latency"]["ms_per_token"])
    heights = [places[trial["number"]][1] for trial in by_latency]
    assert heights == sorted(heights, reverse=True)  # up is more
    assert lefts[0] < lefts[-1] - 100
    assert shown.find_element(By.ID, "plot-x-title").text == "size (MB), lower is better"
    assert "\N{LESS-THAN OR EQUAL TO} 115 MB" in shown.find_element(By.ID, "plot-limits").text
    dropped = next(trial for trial in report["trials"] if trial["state"] == "dropped")
    assert not mark(shown, dropped["number"]).is_displayed()  # it has no latency

    Select(shown.find_element(By.ID, "plot-y")).select_by_visible_text("lora.rank")
    assert mark(shown, dropped["number"]).is_displayed()
    assert shown.find_element(By.ID, "plot-front").get_attribute("points") == ""  # no end of a rank is better


def test_a_mark_stands_where_python_put_it_after_going_there_and_back(shown: Chrome) -> None:
    """Script and template place marks, ticks and the front alike."""
    choice = Select(shown.find_element(By.ID, "plot-x"))
    first = choice.first_selected_option.text
    drawn = shown.execute_script(DRAWN)
    choice.select_by_visible_text("size (MB)")
    assert shown.execute_script(DRAWN) != drawn
    choice.select_by_visible_text(first)

    assert shown.execute_script(DRAWN) == drawn


def test_a_mark_tells_its_trial_under_the_pointer_and_by_keyboard(shown: Chrome, report: dict[str, Any]) -> None:
    best = report["search"]["best"]
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", shown.find_element(By.ID, "plot"))

    ActionChains(shown).move_to_element(mark(shown, best)).perform()
    assert tip(shown).splitlines()[0] == f"Trial {best}, best, meets all limits"
    assert f"size: {report['best']['size']['size_mb']:.1f} MB" in tip(shown)
    ActionChains(shown).send_keys(Keys.ESCAPE).perform()
    assert tip(shown) == ""

    # From the select beside the plot one tab leads to the first mark, arrows to the next ones.
    shown.find_element(By.ID, "plot-x").send_keys(Keys.TAB)
    first = shown.switch_to.active_element.get_attribute("data-trial")
    assert tip(shown).startswith(f"Trial {first}, ")
    ActionChains(shown).send_keys(Keys.ARROW_RIGHT).perform()
    second = shown.switch_to.active_element.get_attribute("data-trial")
    assert second != first
    assert tip(shown).startswith(f"Trial {second}, ")
    assert centre(mark(shown, int(first)))[0] <= centre(mark(shown, int(second)))[0]
    ActionChains(shown).send_keys(Keys.ENTER).perform()
    assert "picked" in shown.find_element(By.ID, f"trial-{second}").get_attribute("class")


def test_the_tooltip_follows_its_mark_when_the_page_scrolls(driver: Chrome, page: Path) -> None:
    """The browser itself scrolls a mark into view that gets the focus."""
    browser.show(driver, page, height=500)
    driver.execute_script("document.querySelector('#plot-marks [tabindex=\"0\"]').focus()")
    driver.execute_async_script("scrollBy(0, 60); setTimeout(arguments[0], 100)")

    focused = driver.switch_to.active_element
    assert tip(driver).startswith("Trial ")
    x, y = centre(focused)
    at = driver.find_element(By.ID, "tip").rect
    scrolled = driver.execute_script("return scrollY")
    assert abs(at["y"] - scrolled - y) < at["height"] + 40
    assert abs(at["x"] - x) < 40


def test_a_curve_is_read_out_point_by_point(shown: Chrome, report: dict[str, Any]) -> None:
    curve = shown.find_element(By.CSS_SELECTOR, "svg.curve")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", curve)

    ActionChains(shown).move_to_element(curve).perform()
    assert tip(shown).startswith(("loss 0", "eval_loss 0"))
    shown.execute_script("arguments[0].focus({preventScroll: true})", curve)
    ActionChains(shown).send_keys(Keys.HOME).perform()
    first, where = tip(shown).splitlines()
    assert float(first.removeprefix("loss ")) == pytest.approx(
        report["steps"][0]["curves"]["loss"][0][1], abs=0.01
    )
    assert where == "at 1"
    ActionChains(shown).send_keys(Keys.ARROW_RIGHT).perform()
    assert tip(shown).splitlines()[1] == "at 2"


@pytest.mark.parametrize("fits", [True, False])
@THEMES
def test_every_text_stands_out_from_its_ground(driver: Chrome, tmp_path: Path, fits: bool, dark: bool) -> None:
    (tmp_path / "report.json").write_text(json.dumps(sample_report(fits=fits)))
    browser.show(driver, reporting.write_page(tmp_path), dark=dark)

    found = driver.execute_script(CONTRAST)

    assert len(found) > 300
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_the_dark_theme_is_dark(driver: Chrome, page: Path) -> None:
    grounds = []
    for dark in (False, True):
        browser.show(driver, page, dark=dark)
        body = driver.find_element(By.TAG_NAME, "body")
        grounds.append(body.value_of_css_property("background-color"))

    light, dim = ([int(part) for part in ground[ground.index("(") + 1 : -1].split(",")[:3]] for ground in grounds)
    assert min(light) > 230
    assert max(dim) < 40


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_scrolls_no_way_but_down(driver: Chrome, tmp_path: Path, width: int, fits: bool) -> None:
    (tmp_path / "report.json").write_text(json.dumps(sample_report(fits=fits)))
    browser.show(driver, reporting.write_page(tmp_path), width=width, height=780)
    driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")

    assert driver.execute_script("return document.documentElement.clientWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    trials = driver.find_element(By.CSS_SELECTOR, ".scroll.tall")
    assert driver.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", trials)


def test_long_names_do_not_widen_a_narrow_page(driver: Chrome, tmp_path: Path) -> None:
    report = sample_report()
    long = "a_name_without_any_place_to_break_it_" * 6
    report |= {"recipe": long, "model": f"/{long}", "output": long}
    report["steps"][0]["name"] = report["notes"][0]["path"] = report["notes"][0]["text"] = long
    report["environment"]["libraries"][long] = long
    (tmp_path / "report.json").write_text(json.dumps(report))

    browser.show(driver, reporting.write_page(tmp_path), width=360, height=780)

    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360


def test_a_failed_run_has_a_page_too(driver: Chrome, tmp_path: Path) -> None:
    error = {"error": "Refused", "what": "<b>no</b> MatMul", "where": "recipe.yaml:9", "hint": ""}
    report = {"version": 1, "verdict": "Refused", "error": error, "model": None, "steps": []}
    (tmp_path / "report.json").write_text(json.dumps(report))

    browser.show(driver, reporting.write_page(tmp_path))

    assert driver.find_element(By.TAG_NAME, "h1").text.endswith("A step did not finish")
    assert "<b>no</b> MatMul." in driver.find_element(By.TAG_NAME, "header").text
    assert driver.get_log("browser") == []
