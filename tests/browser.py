"""A real Chromium for tests: Debian's, or the one that GLUONSEG_CHROMIUM names. Skips where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000


def find_chromium() -> str:
    """The program's path; skips where there is none, or fails where GLUONSEG_REQUIRE_BROWSER allows no skip."""
    found = os.environ.get("GLUONSEG_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        reason = "there is no Chromium: apt-get install chromium, or set GLUONSEG_CHROMIUM"
        if os.environ.get("GLUONSEG_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        # The sandbox needs a user other than root, and /dev/shm is small in containers.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield browser
        browser.close()


class Window:
    """A page, the addresses it asked for, and the errors its scripts made."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def drop(self, *files: tuple[str, str, bytes]) -> None:
        """Drop files (name, media type, content) onto the page, as from a file manager."""
        content = [[name, kind, list(data)] for name, kind, data in files]
        transfer = self.page.evaluate_handle(
            """(files) => {
                const transfer = new DataTransfer();
                for (const [name, type, bytes] of files) {
                    transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
                }
                return transfer;
            }""",
            content,
        )
        self.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})

    def choose(self, *paths: Path) -> None:
        """Choose files in the dialog of the browser."""
        self.page.set_input_files("#photo", [str(path) for path in paths])

    def wait_for_mask(self) -> None:
        """Wait until every mask that is asked for is there."""
        self.page.wait_for_selector("#controls:not([hidden])")
        self.page.wait_for_selector("#progress", state="hidden")

    def read_pixel(self, x: float, y: float, canvas: str = "#canvas-a") -> tuple[int, ...]:
        """The colour that the picture shows at a place, as shares of its width and height."""
        found: Any = self.page.evaluate(
            """async ([selector, x, y]) => {
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                const canvas = document.querySelector(selector);
                const [left, top] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
                return [...canvas.getContext("2d").getImageData(left, top, 1, 1).data];
            }""",
            [canvas, x, y],
        )
        return tuple(found[:3])

    def download(self, selector: str, folder: Path) -> Path:
        """Press what is at ``selector``; the file that it gives."""
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path
