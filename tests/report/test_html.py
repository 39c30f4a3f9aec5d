"""The page as text: one file, inert, and strict about what may run in it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from numguard.errors import InputError
from numguard.records import MemoryLog, events_of, read_run
from numguard.report import summarise, write_html
from numguard.report.html import html_report, write_page
from tests.report.hostile_run import ATTACKS, write_hostile_run
from tests.report.recorded_run import coverage_fields, start_fields, write_run

_ELEMENTS = frozenset(
    re.findall(
        r"\S+",
        "html head meta link title style body main p header h1 h2 h3 b ol li figure div figcaption noscript span "
        "script article section dl dt dd details summary pre table thead tbody tr th td footer",
    )
)
_ATTRIBUTES = frozenset(
    re.findall(r"\S+", "lang charset http-equiv content name rel href class id tabindex scope colspan open type")
)


class Inventory(HTMLParser):
    """Every element, attribute, script and piece of text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self.policy = ""
        self.text: list[str] = []
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.elements.add(tag)
        self.attributes |= set(fields)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if fields.get("http-equiv") == "Content-Security-Policy":
            self.policy = fields.get("content") or ""
        self._script = (fields.get("type") or "text/javascript") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text.append(data)
        else:
            self.scripts.append((self._script, data))


def page_of(run_dir: Path) -> str:
    return html_report(summarise(read_run(run_dir)))


def figure_in(page: str) -> dict[str, Any]:
    (island,) = [text for kind, text in Inventory(page).scripts if kind == "application/json"]
    figure: dict[str, Any] = json.loads(island, parse_constant=pytest.fail)
    return figure


def test_one_file_holds_everything(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = write_html(tmp_path)
    assert path == tmp_path / "report.html"
    inventory = Inventory(path.read_text(encoding="utf-8"))
    assert inventory.links == ["data:,"], "nothing is fetched"
    assert path.stat().st_size < 5_000_000
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".tmp")] == []


def test_only_the_pages_own_scripts_may_run(tmp_path: Path) -> None:
    inventory = Inventory(page_of(write_run(tmp_path)))
    scripts = [text for kind, text in inventory.scripts if kind == "text/javascript"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    assert len(scripts) == 2
    directives = dict(part.strip().partition(" ")[::2] for part in inventory.policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert set(directives["script-src"].split()) == hashes
    assert "unsafe" not in directives["script-src"]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_string_of_a_log_becomes_more_than_text(tmp_path: Path, attack: str) -> None:
    page = page_of(write_hostile_run(tmp_path, attack))
    inventory = Inventory(page)
    assert inventory.elements <= _ELEMENTS
    assert inventory.attributes <= _ATTRIBUTES
    assert inventory.links == ["data:,"]
    assert len(inventory.scripts) == 3
    assert len(page) < 6_000_000
    own = page.replace(inventory.scripts[1][1], "")
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", own) == []
    assert "49" not in re.findall(r"7\*7|49", "".join(inventory.text))


def test_the_shown_text_is_the_text_of_the_log(tmp_path: Path) -> None:
    attack = "<img src=x onerror=\"alert('1')\">"
    inventory = Inventory(page_of(write_hostile_run(tmp_path, attack)))
    assert attack in "".join(inventory.text)


def test_the_curve_carries_the_findings(tmp_path: Path) -> None:
    figure = figure_in(page_of(write_run(tmp_path)))
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert set(traces) == {"loss, rank 0", "error", "warning"}
    assert traces["error"]["x"] == [120]
    assert traces["warning"]["x"] == [131, 164]
    stretch = figure["layout"]["shapes"][0]
    assert (stretch["x0"], stretch["x1"]) == (118, 399)


def test_a_long_curve_with_bad_losses_is_still_drawn(tmp_path: Path) -> None:
    log = MemoryLog()
    for step in range(30_000):
        loss = float("nan") if step in (7, 29_999) else float("inf") if step == 9 else 2.0
        log.write("step", step=step, loss=loss, step_seconds=0.1, own_seconds=0.0, armed=False)
    figure = figure_in(html_report(summarise(events_of(log))))
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert len(traces["loss, rank 0"]["x"]) <= 2_000
    assert traces["loss not finite"]["x"] == [7, 9, 29_999]


def test_a_run_without_a_curve_needs_no_script() -> None:
    log = MemoryLog()
    log.write("start", **start_fields(0))
    log.write("coverage", **coverage_fields())
    page = html_report(summarise(events_of(log)))
    assert Inventory(page).scripts == []
    assert "script-src 'none'" in Inventory(page).policy.replace("&#39;", "'")
    assert len(page) < 100_000


def test_a_link_in_the_place_of_the_page_is_not_followed(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "run" / "report.html").symlink_to(victim)
    write_html(tmp_path / "run")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "run" / "report.html").is_symlink()


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    summary = summarise(read_run(write_run(tmp_path)))
    with pytest.raises(InputError, match="could not be written"):
        write_page(summary, tmp_path / "no" / "such" / "place.html")
