"""Make what README.md shows of the web page: ``screenshot.py MODEL PHOTO docs/images/app.png``."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize

from browser import Window, started_browser
from local_server import find_free_port, started_server
from program import build_environment

SIZE: ViewportSize = {"width": 1120, "height": 850}
COLOURS = 128


def take_screenshot(model: Path, photo: Path, target: Path) -> None:
    """Show ``photo`` with the model's mask in the page, and write what the window shows."""
    port = find_free_port()
    command = [sys.executable, "-m", "gluonseg", "app", str(model), "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, started_browser() as browser:
        log = Path(folder) / "log"
        with started_server(command, port, log, build_environment(), cwd=Path.cwd()) as server:
            server.wait_until_served()
            window = Window(browser.new_context(viewport=SIZE, color_scheme="light"))
            window.page.goto(f"http://127.0.0.1:{port}/")
            window.page.wait_for_selector("html.has-script")
            window.choose(photo)
            window.wait_for_mask()
            window.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
            picture = window.page.screenshot()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    take_screenshot(*map(Path, sys.argv[1:]))
