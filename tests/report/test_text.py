"""The report as text, plain and in a terminal: what it says, and what it never lets through."""

import io
import re
from pathlib import Path

import pytest

from numguard.records import MemoryLog, events_of, finding_fields, read_run
from numguard.report import plain_report, summarise
from numguard.report.inert_text import inert
from numguard.report.terminal import print_report
from tests.report.hostile_run import ATTACKS, write_hostile_run
from tests.report.recorded_run import write_run, wrong_sum

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def in_terminal(run_dir: Path, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(summarise(read_run(run_dir)), file=stream, width=width)
    return stream.getvalue()


def test_the_first_line_says_what_to_do(tmp_path: Path) -> None:
    text = plain_report(summarise(read_run(write_run(tmp_path))))
    first = " ".join(text.split("\n\n")[0].split())
    assert first == (
        "STOP: sum returns wrong results on host node-0018 (cuda:1, rank 1 of 2) since step 120; last clean step 118"
    )


@pytest.mark.parametrize(
    "says",
    [
        "1. Stop the run.",
        "2. Drain host node-0018 (device cuda:1)",
        "3. Restart from a checkpoint written at step 118 or before.",
        "12 of 340 checks of this place failed (3.53 %).",
        "Error 0.7422 where 3.2e-05 is allowed",
        "train.py:88, in loss, forward, calls aten.sum.dim_IntList",
        "Yes. The call was repeated on the same inputs and was wrong again.",
        "proved for any order of additions",
        "the loss is 7.1 robust deviations above its reference",
        "fused reduction inside a compiled graph",
        "1 known place had no check so far.",
        "embedding_dense_backward",
        "0.917 %",
        "2 of 2",
    ],
)
def test_the_engineer_on_call_is_answered(tmp_path: Path, says: str) -> None:
    write_run(tmp_path)
    for text in (plain_report(summarise(read_run(tmp_path))), in_terminal(tmp_path, width=140)):
        assert says in " ".join(text.split())


def test_a_narrow_terminal_is_not_overrun(tmp_path: Path) -> None:
    write_run(tmp_path)
    for width in (60, 80, 200):
        assert max(map(len, in_terminal(tmp_path, width).splitlines())) <= width


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_control_character_reaches_a_terminal(tmp_path: Path, attack: str) -> None:
    write_hostile_run(tmp_path, attack)
    summary = summarise(read_run(tmp_path))
    for text in (plain_report(summary), in_terminal(tmp_path)):
        assert _HIDDEN.findall(text) == []
        assert len(text) < 400_000
        assert "STOP" in text


def test_markup_is_printed_as_it_stands(tmp_path: Path) -> None:
    write_hostile_run(tmp_path, "[bold red]x[/] :skull:")
    assert "[bold red]x[/] :skull:" in in_terminal(tmp_path, width=200)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\tc", "a b c"),
        ("\u202e", "\\u202e"),
        ("\x9b", "\\x9b"),
        ("\ud800", "\\ud800"),
        ("ordinary: äöü 漢字", "ordinary: äöü 漢字"),
        ("x" * 3_000, "x" * 2_000 + "... (3000 characters)"),
    ],
)
def test_hidden_characters_are_shown(text: str, shown: str) -> None:
    assert inert(text) == shown


def test_a_run_in_memory_is_reported_too() -> None:
    log = MemoryLog()
    log.write("finding", **finding_fields(wrong_sum(rank=0, host="here")))
    text = plain_report(summarise(events_of(log)))
    assert text.startswith("STOP: sum returns wrong results on host here")
    assert "in memory" in text
