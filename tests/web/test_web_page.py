"""The page in a browser: what its user sees and does. With LIGHTBED_SCREENSHOTS=FOLDER it is also pictured there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_scenes import SCORES, scenes
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = pytest.mark.slow

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run")
WAIT = 60_000  # milliseconds: machines that test may be busy
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a[href]")]
    .filter((one) => one.checkVisibility() && one.type !== "file")
    .filter((one) => !(one.ariaLabel || one.title || one.innerText?.trim() || one.labels?.[0]?.innerText.trim()))
    .map((one) => one.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "the page's tests drive Chromium: apt-get install chromium"
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page at 1280x800; at the end it has called no other host, and nothing in it has failed."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    elsewhere: list[str] = []
    faults: list[str] = []
    ours = (f"{address}/", "data:", f"blob:{address}/")
    page.on("request", lambda request: None if request.url.startswith(ours) else elsewhere.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.get_by_role("tab").first.wait_for()
    yield page
    page.close()
    assert not elsewhere
    assert not faults


def send(page: Page, file: Path) -> None:
    page.set_input_files("#tb-image input[type=file]", file)


def answered(page: Page) -> None:
    expect(page.locator(".tb-panel .tb-summary").first).to_be_visible()
    expect(page.locator(".tb-busy")).to_have_count(0)


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("LIGHTBED_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.jpg", type="jpeg", quality=80)


def asked(page: Page) -> list[str]:
    """Collects the requests that make networks run."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url) if "/queue/join" in request.url else None)
    return found


def test_an_image_is_sent_and_all_that_is_seen_in_it_can_be_looked_at(page: Page, scene: Path) -> None:
    count = len(scenes(1)[0][1]["labels"])
    boxes, threshold = page.locator("rect.tb-box"), page.get_by_label("Threshold")
    expect(threshold).to_have_value("0.9")
    send(page, scene)
    answered(page)
    page.get_by_role("tab", name="Detection").click()
    requests = asked(page)
    expect(boxes).to_have_count(sum(score >= 0.9 for score in SCORES[:count]))
    picture(page, "page_detection")

    threshold.fill("0.05")  # more is seen, at once and by the same answer
    expect(boxes).to_have_count(count)
    threshold.fill("0.99")
    expect(boxes).to_have_count(0)
    expect(page.locator(".tb-summary")).to_have_text("nothing scores 0.99; the best has 0.97")
    threshold.fill("0.05")
    first = page.locator(".tb-classes input").first
    first.uncheck()
    assert boxes.count() < count
    first.check()
    expect(boxes).to_have_count(count)

    page.get_by_role("tab", name="Instance segmentation").click()
    expect(page.locator(".tb-panel canvas")).to_have_count(1)
    colours = """() => { const c = document.querySelector(".tb-panel canvas"); const found = new Set();
        const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
        for (const value of d) if (value >>> 24 === 255) found.add(value); return found.size; }"""
    page.wait_for_function(f"({colours})() >= {count}")  # a colour each
    page.get_by_label("Opacity").fill("0.8")
    expect(page.locator(".tb-panel canvas")).to_have_css("opacity", "0.8")
    picture(page, "page_instances")

    page.get_by_role("tab", name="Semantic segmentation").click()
    expect(page.locator(".tb-panel")).to_have_count(2)  # two networks side by side
    left, right = (page.locator(".tb-panel").nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    for name in ("dark", "middle"):
        expect(page.locator(".tb-classes")).to_contain_text(name)
    picture(page, "page_side_by_side")
    page.locator(".tb-runs").get_by_label("brightness").uncheck()
    expect(page.locator(".tb-panel")).to_have_count(1)

    page.get_by_role("tab", name="Classification").click()
    expect(page.locator(".tb-bars li")).to_have_count(5)
    assert not requests, "no network is asked twice"


def test_a_broken_file_gives_a_message_and_the_next_image_is_answered(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_bytes(b"no image at all")
    send(page, tmp_path / "notes.png")
    alert = page.get_by_role("alert").filter(has_text="notes.png is no image that the page reads")
    expect(alert).to_be_visible()
    (tmp_path / "big.png").write_bytes(bytes(3 * 2**20))
    send(page, tmp_path / "big.png")
    expect(page.get_by_text("exceed the maximum allowed size of 2").first).to_be_visible()
    page.get_by_role("button", name="scene 1").click()
    answered(page)
    expect(alert).to_be_hidden()
    page.get_by_role("tab", name="Detection").click()
    expect(page.locator("rect.tb-box")).to_have_count(2)


def test_it_is_used_by_keyboard_and_each_control_has_a_name(page: Page) -> None:
    page.get_by_role("button", name="scene 0").focus()
    page.keyboard.press("Enter")
    answered(page)
    chosen = page.locator('[role=tab][aria-selected="true"]')
    chosen.focus()
    for title in ("Detection", "Instance segmentation"):
        page.keyboard.press("ArrowRight")
        expect(chosen).to_have_text(title)
    expect(chosen).to_be_focused()
    page.get_by_label("Threshold").focus()
    page.keyboard.press("Home")
    expect(page.locator(".tb-threshold output")).to_have_text("0.00")
    page.get_by_text("Use it from Python").click()
    expect(page.get_by_text("from gradio_client import Client, handle_file")).to_be_visible()
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_it_fits_screens_wide_and_narrow(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.get_by_role("button", name="scene 2").click()
    answered(page)
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("tab", name="Instance segmentation").click()
    page.locator(".tb-tabs").scroll_into_view_if_needed()
    if width < 500:
        page.evaluate("document.querySelector('.tb-tabs').scrollIntoView()")
        picture(page, "page_narrow")
    shown = page.locator(".tb-stage").bounding_box()
    assert 200 < shown["width"] <= width


def test_it_works_with_the_network_cut_off() -> None:
    """The page and its browser in a network of their own, of which nothing leads out."""
    chosen = f"{__file__}::test_a_broken_file_gives_a_message_and_the_next_image_is_answered"
    inside = f'ip link set lo up && exec "{sys.executable}" -m pytest -m slow -p no:cacheprovider "{chosen}"'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", *user, "--net", "sh", "-c", inside]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout
