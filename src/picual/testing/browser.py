"""Debian's Chromium without a screen and without a network, to look at a page as a reader does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name resolves: a request cannot succeed unseen
)  # fmt: skip


def is_here() -> bool:
    """Say whether Chromium and its driver are installed."""
    return CHROMIUM.exists() and DRIVER.exists()


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """Open a browser that keeps the log of its console and of every request."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # selenium neither downloads nor reports
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def show(driver: Chrome, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
    """Open a file at a width, in the light theme or the dark one."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    theme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    driver.get(page.as_uri())


def screenshot(driver: Chrome, file: Path, *, height: int | None = None) -> None:
    """Write what the page shows as PNG: the whole page, or its first ``height`` pixels."""
    import base64

    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    tall = size["height"] if height is None else min(height, size["height"])
    clip = {"x": 0, "y": 0, "width": size["width"], "height": tall, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))
