"""Reports go to disk and back, are merged, and refuse what is none."""

from dataclasses import replace
from pathlib import Path

import pytest

from numguard.acceptance import AuditReport, merged, read_report
from numguard.acceptance.audit_page import page_of
from numguard.acceptance.audit_report import baseline_of
from numguard.errors import InputError
from numguard.finding import Finding
from numguard.records import read_accepted

FINDING = Finding(
    id="audit-1",
    fingerprint="0123456789ab",
    kind="wrong_result",
    severity="error",
    op="aten::sum",
    message='<script>alert("1")</script>',
    ratio=float("inf"),
    evidence={"reproducer": "import torch\n", "trial": {"dtype": "float32"}, "computed": 1.0, "exact": 2.0},
)
REPORT = AuditReport(torch="2.13.0", device="cpu", level="quick", host="a", findings=(FINDING,), num_trials=3)


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert again.findings[0].fingerprint == FINDING.fingerprint
    assert (again.torch, again.num_trials, again.ok) == ("2.13.0", 3, False)


def test_a_baseline_is_what_accept_takes(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    REPORT.write_baseline(path)
    assert set(read_accepted(path)) == {FINDING.fingerprint}
    assert read_accepted(path)[FINDING.fingerprint] == FINDING.message


def test_an_empty_baseline_accepts_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text(baseline_of(replace(REPORT, findings=())))
    assert read_accepted(tmp_path / "empty.toml") == {}


def test_reproducers_are_written(tmp_path: Path) -> None:
    (path,) = REPORT.write_reproducers(tmp_path / "scripts")
    assert path.read_text() == "import torch\n"
    assert path.name == "wrong_result_0123456789ab.py"


def test_hosts_are_merged() -> None:
    other = replace(REPORT, host="b", num_trials=4)
    both = merged([REPORT, other, replace(REPORT, host="c", findings=())])
    assert len(both.findings) == 1
    assert both.findings[0].evidence["hosts"] == ["a", "b"]
    assert both.num_trials == 10


def test_a_page_is_inert() -> None:
    page = page_of(REPORT)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2}',
        '{"schema": 1}',
        '{"schema": 1, "findings": [1]}',
        "[" * 5000,
        '{"schema": 1, "torch": "x", "device": "cpu", "level": "quick", "findings": [{"id": "1"}]}',
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_report(path)
    assert "\n" not in str(refused.value)


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_report(tmp_path / "none.json")
