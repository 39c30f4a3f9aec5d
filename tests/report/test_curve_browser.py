"""The page of ``numguard curve`` in a real browser: drawn, silent, asking the network nothing, and readable."""

from pathlib import Path
from typing import Any

import pytest

from numguard.cli import main
from tests.cli.test_curve import SPIKE, write_log
from tests.report.test_browser import browser, contrast, opened, pytestmark, requests_of

__all__ = ["browser", "pytestmark"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    assert main(["curve", write_log(folder, spike=1.5), "--out", str(folder)]) == 1
    return folder / "curve.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_curve_its_band_and_its_marks_are_drawn(browser: Any, page: Path, width: int, scheme: str) -> None:
    opened(browser, page, width=width, scheme=scheme)
    assert browser.get_log("browser") == []
    assert requests_of(browser) == [page.as_uri()]
    assert "alarm" in browser.find_element("id", "verdict").text
    lines = browser.find_elements("css selector", "#curve .scatterlayer .js-line")
    assert max(len(line.get_attribute("d") or "") for line in lines) > 1_000
    assert len(browser.find_elements("css selector", "#curve .scatterlayer .js-fill")) >= 1
    assert len(browser.find_elements("css selector", "#curve .scatterlayer .point")) >= 1
    assert f"{SPIKE:,}" in browser.find_element("tag name", "main").text
    wide = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    assert wide is False, "the page itself never scrolls sideways"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", [".verdict h1", ".lead", "th", "td", ".brief", "figcaption"])
def test_everything_can_be_read(browser: Any, page: Path, selector: str, scheme: str) -> None:
    assert contrast(opened(browser, page, scheme=scheme), selector) >= 4.5
