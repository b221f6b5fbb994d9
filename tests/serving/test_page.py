"""The page in a real browser: what a person sees and clicks."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.labels import CLASSES
from tests.refinement.fakes import scene
from tests.serving.live import Live, live

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with its chromedriver here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "photo.png"
    Image.fromarray(scene(1)[0]).save(path)
    return path


class Page:
    """What a test does with the page."""

    def __init__(self, browser: Any, served: Live, width: int) -> None:
        self.browser = browser
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(served.address + "/")
        self.until(lambda: "model" in self.text("about"))

    def find(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def text(self, name: str) -> str:
        return str(self.find(name).text)

    def js(self, code: str, *given: Any) -> Any:
        return self.browser.execute_script(code, *given)

    def until(self, true: Callable[[], Any]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 15, 0.05).until(lambda _: true())

    def open(self, path: Path) -> None:
        self.find("file").send_keys(str(path))
        self.until(lambda: self.browser.find_elements("css selector", "#legend li"))

    def canvas(self, name: str) -> np.ndarray:
        """Read a canvas, (H, W, 4)."""
        code = (
            "const c = document.getElementById(arguments[0]);"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return [c.height, c.width, Array.from(d)]"
        )
        height, width, data = self.js(code, name)
        return np.array(data, np.uint8).reshape(height, width, 4)

    def click(self, x: int, y: int, shift: bool = False) -> None:
        """Click a pixel of the photo, as a mouse does."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        canvas = self.find("photo")
        shown = canvas.size
        height, width = self.js("return [arguments[0].height, arguments[0].width]", canvas)
        dx = round((x + 0.5) / width * shown["width"] - shown["width"] / 2)
        dy = round((y + 0.5) / height * shown["height"] - shown["height"] / 2)
        actions = ActionChains(self.browser)
        if shift:
            actions.key_down(Keys.SHIFT)
        actions.move_to_element_with_offset(canvas, dx, dy).click()
        if shift:
            actions.key_up(Keys.SHIFT)
        actions.perform()

    def shoot(self, name: str) -> None:
        """Keep a picture of it where `SERVE_SHOTS` says, to be looked at."""
        if folder := os.environ.get("SERVE_SHOTS"):
            given = {"captureBeyondViewport": True, "format": "png"}
            shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", given)["data"]
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [1280, 400])
def test_a_photo_its_classes_and_a_click(
    browser: Any, served: Live, small_bundle: Path, photo: Path, width: int
) -> None:
    page = Page(browser, served, width)
    page.shoot(f"{width}_empty")
    page.open(photo)
    image, truth = scene(1)
    labels = open_model(small_bundle).predict(image)
    palette = np.array([c.color for c in CLASSES])

    def inner(values: np.ndarray) -> np.ndarray:
        """Where no border between classes is drawn."""
        same = np.ones(labels.shape, bool)
        same[1:] &= labels[1:] == labels[:-1]
        same[:, 1:] &= labels[:, 1:] == labels[:, :-1]
        return values[same]

    shown = page.canvas("classes")
    assert np.array_equal(inner(shown[..., :3]), inner(palette[labels]))
    assert (shown[..., 3] == 255).all()
    assert np.array_equal(page.canvas("photo")[..., :3], image)
    counts = np.bincount(labels.ravel(), minlength=19)
    order = [CLASSES[i].name for i in np.argsort(-counts, kind="stable") if counts[i]]
    rows = browser.find_elements("css selector", "#legend li")
    assert [row.text.split("\n")[0] for row in rows] == order
    assert f"{100 * counts.max() / labels.size:.1f} %" in rows[0].text
    assert "engine" in page.text("time")
    assert "ms" in page.text("time")

    largest = int(counts.argmax())  # toggled off and on again
    rows[0].click()
    hidden = page.canvas("classes")[..., 3]
    assert (hidden[labels == largest] == 0).all()
    assert (hidden[labels != largest] == 255).all()
    page.find("all").click()
    assert not page.canvas("classes")[..., 3].any()
    assert page.text("all") == "show all"
    page.find("all").click()
    assert (page.canvas("classes")[..., 3] == 255).all()

    y, x = np.argwhere(truth == 13)[20]
    page.click(int(x), int(y))
    page.until(lambda: "SAM rates" in page.text("found"))
    thing = (image == image[y, x]).all(-1)
    mask = page.canvas("mask")[..., 3] > 0
    assert (mask & thing).sum() / (
        mask | thing
    ).sum() > 0.8  # the dot that marks the click is drawn there too
    other_y, other_x = np.argwhere(truth == 10)[5]
    page.click(int(other_x), int(other_y), shift=True)
    page.until(lambda: page.js("return state.points.length") == 2)
    assert [point[2] for point in page.js("return state.points")] == [1, 0]
    page.until(lambda: page.js("return document.getElementById('busy').hidden"))
    assert len(browser.find_elements("css selector", "#dots i.off")) == 1
    page.shoot(f"{width}_clicked")
    page.find("clear").click()
    assert not page.canvas("mask").any()
    assert not browser.find_elements("css selector", "#dots i")
    assert page.text("found") == ""

    wide = page.js("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]  # nothing sticks out to the side
    assert not page.complaints()


def test_the_switch_stands_in_for_shift(browser: Any, served: Live, photo: Path) -> None:
    """A finger has no shift key; a negative point alone asks nothing."""
    page = Page(browser, served, 400)
    page.open(photo)
    before = page.js("return performance.getEntriesByName(location.origin + '/v1/points').length")
    page.find("minus").click()
    page.click(3, 3)
    assert "on the thing itself" in page.text("found")
    assert page.js("return performance.getEntriesByName(location.origin + '/v1/points').length") == before
    page.find("plus").click()
    page.click(30, 40)
    page.until(lambda: "SAM rates" in page.text("found"))
    page.find("undo").click()
    page.find("undo").click()
    assert page.js("return state.points.length") == 0


def test_refine_example_and_faults(browser: Any, served: Live, tmp_path: Path) -> None:
    page = Page(browser, served, 1280)
    page.find("example").click()
    page.until(lambda: browser.find_elements("css selector", "#legend li"))
    before = page.canvas("classes")
    page.until(lambda: page.find("refine").is_enabled())
    page.find("refine").click()
    page.until(lambda: "label" in page.text("time"))
    assert page.canvas("classes").shape == before.shape
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    page.find("file").send_keys(str(bad))
    page.until(lambda: "not an image" in page.text("fault"))
    moving = tmp_path / "moving.gif"
    Image.fromarray(scene(2)[0]).save(moving)
    page.find("file").send_keys(str(moving))  # the browser shows it, the server refuses it
    page.until(lambda: "PNG, JPEG" in page.text("fault"))
    assert [c for c in page.complaints() if "422" not in c] == []


def test_without_a_sam(browser: Any, small_bundle: Path, photo: Path) -> None:
    with live(small_bundle, sam=False) as running:
        page = Page(browser, running, 1280)
        page.open(photo)
        assert not page.find("clicks").is_displayed()
        assert not page.find("refine").is_displayed()
        page.click(5, 5)
        assert page.js("return state.points.length") == 0
