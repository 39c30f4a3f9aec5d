"""The page in a real browser, opened from disk: it is drawn, says what it should, and asks the network nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from numguard.report import write_html
from tests.report.hostile_run import ATTACKS, write_hostile_run
from tests.report.recorded_run import write_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, path: Path, *, width: int = 1200, scheme: str = "light") -> Any:
    browser.get_log("browser"), browser.get_log("performance")
    metrics = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.as_uri())
    return browser


def requests_of(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(write_run(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_is_drawn_without_errors_and_without_a_network(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    opened(browser, page, width=width, scheme=scheme)
    assert browser.get_log("browser") == []
    assert requests_of(browser) == [page.as_uri()]
    verdict = browser.find_element("id", "verdict")
    assert verdict.is_displayed()
    assert verdict.text.startswith("STOP")
    assert "last clean step 118" in verdict.text
    lines = browser.find_elements("css selector", "#curve .scatterlayer .js-line")
    assert [len(line.get_attribute("d")) > 1_000 for line in lines] == [True]
    assert len(browser.find_elements("css selector", "#curve .scatterlayer .point")) == 3
    wide = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    assert wide is False, "the page itself never scrolls sideways"


def contrast(browser: Any, selector: str) -> float:
    """Return the WCAG 2.2 contrast ratio of an element's text against the nearest opaque background."""
    ratio: float = browser.execute_script(
        """
        const channels = text => text.match(/[\\d.]+/g).map(Number);
        const luminance = rgb => rgb.slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        let element = document.querySelector(arguments[0]);
        const ink = luminance(channels(getComputedStyle(element).color));
        let ground = [0, 0, 0, 0];
        for (; element; element = element.parentElement) {
          ground = channels(getComputedStyle(element).backgroundColor);
          if (ground.length === 3 || ground[3] === 1) break;
        }
        const [low, high] = [ink, luminance(ground)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
        """,
        selector,
    )
    return ratio


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "selector", [".verdict h1", ".verdict h1 b", ".answers dt", ".badge", ".lead", "th", "td", ".brief"]
)
def test_everything_can_be_read(browser: Any, page: Path, selector: str, scheme: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: text has a contrast of at least 4.5 to 1."""
    assert contrast(opened(browser, page, scheme=scheme), selector) >= 4.5


def test_without_scripts_the_answers_are_there(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, page)
        text = browser.find_element("tag name", "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for answer in ("STOP", "12 of 340 checks", "embedding_dense_backward", "fused reduction inside a compiled graph"):
        assert answer in text


def test_no_attack_does_anything(browser: Any, tmp_path: Path) -> None:
    """One rank for each attack, all on one page."""
    for rank, attack in enumerate(ATTACKS):
        write_hostile_run(tmp_path, attack, rank=rank)
    path = write_html(tmp_path)
    opened(browser, path)
    assert browser.get_log("browser") == []
    assert requests_of(browser) == [path.as_uri()]
    assert browser.title.startswith("STOP: ")
    assert len(browser.find_elements("css selector", "article.error")) == len(ATTACKS)
    drawn = browser.find_elements("css selector", "main img, main iframe, main form, main a, #curve a, #curve image")
    assert [element for element in drawn if "modebar-btn" not in (element.get_attribute("class") or "")] == []


def test_what_got_through_would_be_noticed_and_stopped(browser: Any, page: Path, tmp_path: Path) -> None:
    """The policy of the page refuses a script that was not escaped, and the test above would see it."""
    raw = "<main><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(page.read_text(encoding="utf-8").replace("<main>", raw), encoding="utf-8")
    opened(browser, spoiled)
    assert browser.title.startswith("STOP: ")
    assert len(browser.get_log("browser")) >= 2
