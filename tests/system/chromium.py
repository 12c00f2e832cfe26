"""Chromium for browser tests: the machine's own when there is one, else the one that Playwright installed.

Import the fixture where it is used: ``from tests.system.chromium import chromium  # noqa: F401``. It ends with the
module, because Playwright keeps an event loop running that asyncio tests of other modules cannot share.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless browser; tests open contexts of their own in it."""
    with sync_playwright() as playwright:
        browser = _launch(playwright)
        yield browser
        browser.close()


def _launch(playwright: Playwright) -> Browser:
    own = next(filter(None, map(shutil.which, NAMES)), None)
    arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:  # Chromium's sandbox refuses root
        arguments.append("--no-sandbox")
    try:
        return playwright.chromium.launch(executable_path=own, args=arguments)
    except Error as error:
        if own is None:
            pytest.skip(
                "browser tests need Chromium: install the package chromium, or run 'playwright install chromium'"
            )
        raise error
