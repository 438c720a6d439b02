"""The web page in a real browser, with stand-ins for two models that disagree everywhere."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Route, expect
from playwright.sync_api import Error as PlaywrightError
from schemathesis.specs.openapi.checks import positive_data_acceptance

from browser import Window, started_browser
from gluonseg.data.decode import read_image, read_label
from gluonseg.models.folder.card import CARD_FILE, encode_card
from gluonseg.models.folder.manifest import BEST_FILE
from gluonseg.predict.formats import describe_mask
from gluonseg.predict.overlay import choose_card_colours, draw_overlay
from local_server import ServerProcess, find_free_port, started_server
from picture import UInt8Array, draw_noise, encode_picture
from program import build_environment, run_program
from real_photo import find_pet_photos
from repository import ROOT, read_blocks
from screenshot import SIZE
from stand_in import KILLS, StandIn, compute_mask

Open = Callable[..., Window]
RED = (226, 62, 54)
"""The colour of class 0, which the stand-in gives dark pixels; bright ones are background, without a colour."""
HALF_RED = (113, 31, 27)


def _draw_halves(height: int = 40, width: int = 60) -> UInt8Array:
    """Black on the left, white on the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, width // 2 :] = 255
    return picture


HALVES = ("halves.png", "image/png", encode_picture(_draw_halves()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as one:
        yield one


def _start(folder: Path, **variables: str) -> AbstractContextManager[ServerProcess]:
    port = find_free_port()
    names = ("plain", "inverse")
    for name in names:
        (folder / name / "examples").mkdir(parents=True)
        (folder / name / BEST_FILE).write_bytes(b"")
        (folder / name / CARD_FILE).write_text(encode_card(StandIn.card))
        (folder / name / "examples" / "one.png").write_bytes(HALVES[2])
    path = f"{ROOT / 'src'}:{ROOT / 'tests'}"
    environment = build_environment(SAGEMAKER_BIND_TO_PORT=str(port), PYTHONPATH=path, **variables)
    command = [sys.executable, str(ROOT / "tests" / "stand_in_app.py"), *(str(folder / name) for name in names)]
    return started_server(command, port, folder / "log", environment)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with _start(tmp_path_factory.mktemp("app"), SAGEMAKER_MAX_PAYLOAD_IN_MB="2") as one:
        one.wait_until_served()
        yield one


@pytest.fixture
def open_page(browser: Browser, server: ServerProcess) -> Iterator[Open]:
    """Open the page in a new window; at the end no script has failed, and no other host was asked."""
    windows = []

    def open_one(port: int = server.port, **options: Any) -> Window:
        context = browser.new_context(**options)
        window = Window(context)
        windows.append((window, f"http://127.0.0.1:{port}/"))
        for _ in range(3):
            # Chromium gives up what it loads when a network interface comes or goes, as those of containers do.
            with suppress(PlaywrightError):
                window.page.goto(windows[-1][1])
                if options.get("java_script_enabled", True):
                    window.page.wait_for_selector("html.has-script", timeout=10_000)
                return window
        pytest.fail(f"the page at {windows[-1][1]} does not load: {window.errors}")

    yield open_one
    for window, address in windows:
        window.page.context.close()
        assert window.errors == []
        assert [url for url in window.asked if not url.startswith((address, "blob:", "data:"))] == []


def test_a_dropped_photo_shows_its_classes_and_a_class_can_be_hidden(open_page: Open) -> None:
    window = open_page()
    window.drop(HALVES)
    window.wait_for_mask()
    assert (window.read_pixel(0.25, 0.5), window.read_pixel(0.75, 0.5)) == (HALF_RED, (255, 255, 255))
    legend = window.page.locator("#legend")
    expect(legend).to_contain_text("pet")
    expect(legend).to_contain_text("50.0 %")
    legend.get_by_role("checkbox", name="pet").uncheck()
    assert window.read_pixel(0.25, 0.5) == (0, 0, 0)


def test_opacity_outlines_and_swipe(open_page: Open) -> None:
    window = open_page()
    window.drop(HALVES)
    window.wait_for_mask()
    window.page.locator("#opacity").fill("100")
    assert window.read_pixel(0.25, 0.5) == RED
    window.page.check("#style-outlines")
    assert window.read_pixel(0.25, 0.5) == (0, 0, 0)
    window.page.check("#style-colours")
    window.page.check("#swipe-on")
    window.page.locator("#swipe").fill("30")
    assert (window.read_pixel(0.2, 0.5), window.read_pixel(0.4, 0.5)) == ((0, 0, 0), RED)


def test_keys_alone_choose_an_example_and_read_a_pixel(open_page: Open) -> None:
    page = open_page().page
    for key, selector in (("Enter", "[data-example]:visible"), ("ArrowRight", "#canvas-a")):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                break
        page.keyboard.press(key)
        page.wait_for_selector("#controls:not([hidden])")
    readout = page.locator("#readout")
    expect(readout).to_contain_text("background 100 %")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    expect(readout).to_contain_text("pet 100 %")
    level = page.locator("#zoom-level")
    whole = level.inner_text()
    page.keyboard.press("+")
    expect(level).not_to_have_text(whole)
    page.keyboard.press("0")
    expect(level).to_have_text(whole)


def test_two_models_side_by_side_and_what_they_differ_in(open_page: Open) -> None:
    window = open_page()
    window.drop(HALVES)
    window.wait_for_mask()
    window.page.select_option("#compare", "inverse")
    window.page.wait_for_selector("#difference:not([hidden])")
    expect(window.page.locator("#difference")).to_contain_text("differ in 100.0 % of the pixels")
    window.page.uncheck("#differences")
    assert window.read_pixel(0.25, 0.5) == HALF_RED
    assert window.read_pixel(0.25, 0.5, "#canvas-b") == (0, 0, 0)
    window.page.select_option("#compare", "")
    window.page.select_option("#model", "inverse")
    window.wait_for_mask()
    assert window.read_pixel(0.25, 0.5) == (0, 0, 0)


def test_what_is_downloaded_of_a_pet(open_page: Open, tmp_path: Path) -> None:
    photo = next((find_pet_photos() / "images").glob("*.jpg"))
    image = read_image(photo)
    mask, card = compute_mask(image), StandIn.card
    window = open_page()
    window.choose(photo)
    window.wait_for_mask()

    def download(kind: str) -> Path:
        return window.download(f"[data-download={kind}]", tmp_path)

    np.testing.assert_array_equal(read_label(download("mask")), mask)
    assert json.loads(download("json").read_text()) == describe_mask(mask, card)
    coloured = read_image(download("coloured"))
    assert {tuple(colour) for colour in coloured[mask == 0].tolist()} == {RED}
    # The browser decodes a JPEG a little otherwise than Pillow.
    wanted = draw_overlay(image, mask, choose_card_colours(card)).astype(int)
    assert np.abs(read_image(download("overlay")).astype(int) - wanted).mean() < 2
    window.page.select_option("#cut-out-class", label="pet")
    with Image.open(download("cut-out")) as cut_out:
        np.testing.assert_array_equal(np.asarray(cut_out)[..., 3] > 0, mask == 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_the_camera_stored_turned(open_page: Open, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = _draw_halves(56, 60)  # nearly as high as wide, so that it fills its frame when it is turned, too
    stored[:28] = 255  # black at the lower left of what is stored
    path = tmp_path / "turned.jpg"
    path.write_bytes(encode_picture(stored, "JPEG", quality=95, exif=exif))
    window = open_page()
    window.choose(path)
    window.wait_for_mask()
    lower_left = {1: (0, 1), 2: (1, 1), 3: (1, 0), 4: (0, 0), 5: (1, 0), 6: (0, 0), 7: (0, 1), 8: (1, 1)}
    x, y = (0.25 + 0.5 * side for side in lower_left[orientation])
    assert np.abs(np.subtract(window.read_pixel(x, y), HALF_RED)).max() < 8
    mask = read_label(window.download("[data-download=mask]", tmp_path))
    assert mask.shape == (56, 60)
    assert mask[42, 15] == 0
    assert mask[10, 45] == 1
    assert window.page.locator("#orientation-note").is_visible() == (orientation > 1)


def test_several_photos_make_a_gallery_and_a_contact_sheet(open_page: Open, tmp_path: Path) -> None:
    window = open_page()
    white = encode_picture(np.full((30, 30, 3), 255, np.uint8))
    window.drop(HALVES, ("white.png", "image/png", white), ("bad.png", "image/png", b"nothing"))
    expect(window.page.locator("#thumbnails li")).to_have_count(2)
    expect(window.page.locator("#thumbnails")).to_contain_text("background 100.0 %")
    expect(window.page.locator("#error")).to_contain_text("bad.png")
    window.page.wait_for_selector("#progress", state="hidden")
    sheet = read_image(window.download("#contact-sheet", tmp_path))
    assert (sheet == (255, 255, 255)).all(axis=-1).any()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (("notes.txt", b"text"), "notes.txt"),
        (("large.png", HALVES[2] + bytes(2 << 20)), "2 MB"),
        (("deadly.png", encode_picture(np.zeros((*KILLS, 3), np.uint8))), "has ended the process"),
    ],
)
def test_a_file_that_cannot_be_answered(open_page: Open, tmp_path: Path, file: tuple[str, bytes], text: str) -> None:
    name, content = file
    (tmp_path / name).write_bytes(content)
    window = open_page()
    window.choose(tmp_path / name)
    expect(window.page.locator("#error")).to_contain_text(text)


def test_a_busy_server_is_asked_again(open_page: Open) -> None:
    window = open_page()
    answers = iter([503])

    def answer(route: Route) -> None:
        if status := next(answers, None):
            body = json.dumps({"error": "the server is busy"})
            route.fulfill(status=status, body=body, headers={"Retry-After": "1"})
        else:
            route.continue_()

    window.page.route("**/prediction", answer)
    window.drop(HALVES)
    expect(window.page.locator("#progress-text")).to_contain_text("sent again")
    window.wait_for_mask()


def test_cancel_and_a_server_that_is_gone(open_page: Open, tmp_path: Path) -> None:
    with _start(tmp_path, STAND_IN_SECONDS="60") as slow:
        slow.wait_until_served()
        window = open_page(slow.port)
        window.drop(HALVES)
        expect(window.page.locator("#progress-text")).to_contain_text("computes halves.png: 1 s")
        window.page.click("#cancel")
        expect(window.page.locator("#error")).to_contain_text("cancelled")
        window.page.click("#retry")
        expect(window.page.locator("#progress-text")).to_contain_text("computes")
        slow.process.send_signal(signal.SIGKILL)
        expect(window.page.locator("#error")).to_contain_text("cannot be reached")


def test_a_photo_of_24_megapixels_with_crisp_pixels(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encode_picture(_draw_halves(4000, 6000)))
    window = open_page()
    window.choose(path)
    window.wait_for_mask()
    assert window.read_pixel(0.25, 0.5) == HALF_RED
    canvas = window.page.locator("#canvas-a")
    canvas.focus()
    for _ in range(30):
        window.page.keyboard.press("+")
    canvas.click(position={"x": 5, "y": 5})
    # The middle of the photo is the edge between black and white, and now no pixel between them is grey.
    assert window.read_pixel(0.4, 0.5) == HALF_RED
    assert {window.read_pixel(0.5 + step / 400, 0.5) for step in range(-8, 9)} <= {HALF_RED, (255, 255, 255)}


def test_without_a_script_the_form_gives_the_overlay(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "halves.png"
    path.write_bytes(HALVES[2])
    window = open_page(java_script_enabled=False)
    window.choose(path)
    window.page.click("button.no-script")
    expect(window.page.locator(".plain")).to_contain_text("50.0 %")
    expect(window.page.locator(".plain img")).to_be_visible()


def test_the_snippets_of_the_page_on_the_app_run(open_page: Open, server: ServerProcess, tmp_path: Path) -> None:
    def read(language: str) -> str:
        (snippet,) = [text for text in read_blocks("docs/app.md", language) if "/api/" in text]
        return snippet.replace("localhost:8080", f"127.0.0.1:{server.port}").replace("models/run/", "models/plain/")

    (tmp_path / "photo.jpg").write_bytes(HALVES[2])
    done = run_program(["bash", "-ec", read("sh")], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), compute_mask(_draw_halves()))
    shares = ["pet: 50.0 %", "background: 50.0 %", "border: 0.0 %"]
    assert run_program([sys.executable, "-c", read("python")], cwd=tmp_path).stdout.splitlines() == shares
    window = open_page()
    lines: list[str] = []
    window.page.on("console", lambda message: lines.append(message.text))
    window.page.evaluate("document.body.innerHTML = '<input type=file>'")
    window.page.set_input_files("input", str(tmp_path / "photo.jpg"))
    window.page.evaluate(f"(async () => {{ {read('js')} }})()")
    assert lines == shares


def test_a_form_that_is_too_large_gives_a_page(open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(HALVES[2] + bytes(3 << 20))
    window = open_page(java_script_enabled=False)
    window.choose(tmp_path / "large.png")
    window.page.click("button.no-script")
    expect(window.page.locator("main")).to_contain_text("larger than 2 MB")


def test_mouse_and_finger_read_a_pixel(open_page: Open) -> None:
    window = open_page(has_touch=True)
    window.drop(HALVES)
    window.wait_for_mask()
    canvas, readout = window.page.locator("#canvas-a"), window.page.locator("#readout")
    box = canvas.bounding_box()
    assert box
    window.page.mouse.move(box["x"] + 0.26 * box["width"], box["y"] + 0.51 * box["height"])
    expect(readout).to_contain_text("pet 100 % (pixel 15, 20)")
    canvas.tap(position={"x": 0.75 * box["width"], "y": 0.5 * box["height"]})
    expect(readout).to_contain_text("background 100 %")


def test_cancel_leaves_out_what_was_not_opened_yet(open_page: Open) -> None:
    window = open_page()
    window.page.route("**/prediction", lambda route: None)  # never answered
    window.drop(*((f"{number}.png", "image/png", HALVES[2]) for number in range(60)))
    window.page.click("#cancel")
    expect(window.page.locator("#error")).to_contain_text("cancelled")
    window.page.click("#clear")
    window.page.wait_for_timeout(500)
    assert window.page.locator("#gallery, #result").filter(visible=True).count() == 0
    assert sum(url.endswith("/prediction") for url in window.asked) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_everybody_can_use_it(open_page: Open, scheme: str, width: int) -> None:
    window = open_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    axe = Axe()
    found = [axe.run(window.page)]
    window.drop(HALVES, ("other.png", "image/png", HALVES[2]))
    window.page.select_option("#compare", "inverse")
    window.page.wait_for_selector("#difference:not([hidden])")
    window.page.wait_for_selector("#progress", state="hidden")
    found.append(axe.run(window.page))
    assert window.page.evaluate("document.documentElement.scrollWidth") <= width
    assert window.page.evaluate(
        "document.querySelector('.legend').scrollWidth <= document.querySelector('.legend').clientWidth"
    )
    address = window.page.url
    for path in ("models/plain", "nowhere"):
        window.page.goto(f"{address}{path}")
        found.append(axe.run(window.page))
    assert [(one.violations_count, one.generate_report()) for one in found if one.violations_count] == []


def test_the_picture_of_the_readme_can_be_made(trained_model: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(HALVES[2])
    script = ROOT / "tests" / "screenshot.py"
    done = run_program([sys.executable, script, trained_model, tmp_path / "photo.png", tmp_path / "app.png"])
    assert done.returncode == 0, done.stdout
    assert read_image(tmp_path / "app.png").shape[:2] == (SIZE["height"], SIZE["width"])


# The API's description against the running server.

_PICTURES = st.sampled_from(
    [HALVES[2], encode_picture(draw_noise(7, 3)), encode_picture(draw_noise(400, 300)), b"", b"text"]
)
for _media_type in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(_media_type, _PICTURES)


def test_the_description_of_the_api_holds(server: ServerProcess) -> None:
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/api/openapi.json")
    statuses = set()
    # A schema cannot say that the bytes are a picture, so some that fit it are refused.

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(case=described.as_strategy())
    def check(case: Any) -> None:
        if len(case.path_parameters.get("name", "")) % 2:  # else hardly a model of this name would be asked
            case.path_parameters["name"] = "plain"
        statuses.add(case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code)

    check()
    assert statuses >= {200, 404}
