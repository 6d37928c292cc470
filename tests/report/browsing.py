"""A real Chromium for tests of the page. It is a program of the system, not a package: see ``chromium``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def chromium() -> str:
    """The browser's path: QBENCH_CHROMIUM, or the first of its usual names on PATH; without one the test fails."""
    found = os.environ.get("QBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "the browser tests need Chromium or Chrome: `apt-get install chromium` on Debian, `brew install --cask "
            "chromium` on a Mac, or QBENCH_CHROMIUM=/path/to/one",
            pytrace=False,
        )
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, headless. Its sandbox is off, because it refuses to start as root with it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page at an address; whatever it reports as an error, or asks of a network, fails the test."""
    context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
    page = context.new_page()
    page.set_default_timeout(8_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    local = ("file:", "blob:", "data:")
    page.on("request", lambda request: None if request.url.startswith(local) else errors.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert errors == []
