"""Draw docs/images/report.png anew: the top of the page of a made-up search, in Debian's Chromium.

Run by ``make screenshot``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from picual import report
from picual.testing import browser
from picual.testing.sample_report import sample_report

FILE = Path(__file__).with_name("report.png")
HEIGHT = 2080  # from the verdict to the table of trials


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, browser.chromium() as driver:
        (Path(folder) / "report.json").write_text(json.dumps(sample_report()), encoding="utf-8")
        browser.show(driver, report.write_page(Path(folder)))
        browser.screenshot(driver, FILE, height=HEIGHT)


if __name__ == "__main__":
    main()
