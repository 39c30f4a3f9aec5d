"""Odd, damaged and hostile logs: what can be used is used, what cannot is named, nothing is executed."""

import gzip
import json
import os
import pickle
import sqlite3
from pathlib import Path

import pytest

from numguard.errors import InputError, UsageError
from numguard.records.loss_logs import LossLog, read_loss_log
from tests.records.loss_logs.written_logs import WRITERS, event, record, write_csv, write_lines, write_trainer_state

LOSSES = [3.0 - 0.03125 * step for step in range(40)]

#: A line between two good ones, and a word of the reason for which it is rejected.
LINES = [
    (b'{"step": true, "loss": 1}', "no step"),
    (b'{"step": "7", "loss": 1}', "no step"),
    (b'{"step": 1.5, "loss": 1}', "no whole number"),
    (b'{"step": -1, "loss": 1}', "whole number from 0"),
    (b'{"step": 9223372036854775808, "loss": 1}', "whole number from 0"),
    (b'{"step": 1, "step": 2, "loss": 1}', "twice"),
    (b'{"step": 1, "loss": "high"}', "no number"),
    (b'{"step": 1, "loss": true}', "no number"),
    (b'{"step": 1, "loss": [1]}', "no number"),
    (b'{"step": 1, "loss": 1' + b"0" * 4000 + b"}", "too large"),
    (b'{"step": 1, "loss": 1' + b"0" * 6000 + b"}", "JSON"),
    (b'{"step": 1, "loss": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    (b'{"step": 1, "loss": \xff}', "UTF-8"),
    (b"[1, 2]", "not one JSON object"),
    (b'{"step": 1, "loss": 1} {"step": 2}', "not one JSON object"),
    (b"\0" * 200, "NUL"),
    (b'{"step": 1, "note": "' + b"x" * 2**20 + b'", "loss": 1}', "longer"),
]


@pytest.mark.parametrize(("line", "reason"), LINES, ids=range(len(LINES)))
def test_a_bad_line_is_named_and_the_rest_used(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0, "loss": 3}\n' + line + b'\n{"step": 2, "loss": 2}\n')
    log = read_loss_log(path)
    assert log.columns["loss"][:] == [3.0, 2.0]
    assert log.damage.num_rejected == 1
    assert log.damage.examples[0].startswith("log.jsonl:line 2: ")
    assert reason in log.damage.examples[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('1,"2', "no CSV"),
        ("1,2,3", "cells"),
        ("x,2", "no whole number"),
        ("1,1_0", "no number"),
        ("1,\u0661", "no number"),
        ("1,=HYPERLINK(1)", "no number"),
        ("1," + "9" * 200_000, "no number"),
        ("9e99,2", "whole number from 0"),
    ],
)
def test_a_bad_row_of_a_table_is_named_and_the_rest_used(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"step,loss\n0,3\n{row}\n2,2\n", encoding="utf-8")
    log = read_loss_log(path)
    assert log.columns["loss"][:] == [3.0, 2.0]
    assert reason in log.damage.examples[0]
    assert log.damage.examples[0].startswith("log.csv:line 3: ")
    assert len(log.damage.examples[0]) < 200


@pytest.mark.parametrize("text", ["NaN", "nan", "Infinity", "-Infinity", "1e400", '"NaN"'])
def test_a_nonfinite_loss_is_a_loss(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0, "loss": 1}}\n{{"step": 1, "loss": {text.replace("nan", "NaN")}}}\n')
    log = read_loss_log(path)
    (curve,) = log.curves()
    assert curve.num_nonfinite == 1
    assert not log.damage


def read_or_refused(path: Path) -> LossLog | None:
    """Return a log, or None where it was refused, which is then told in one line."""
    try:
        return read_loss_log(path)
    except (InputError, UsageError) as refusal:
        told = str(refusal)
    assert "\n" not in told
    return None


@pytest.mark.parametrize("kind", WRITERS)
def test_every_prefix_of_a_log_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    whole = WRITERS[kind](tmp_path, LOSSES)
    content = whole.read_bytes()
    num_read = 0
    for size in range(0, len(content), max(1, len(content) // 25)):
        whole.write_bytes(content[:size])
        log = read_or_refused(whole)
        if log is not None:
            num_read += 1
            losses = log.columns["loss"][:]
            assert losses[: len(losses) - 1] == LOSSES[: len(losses) - 1]
    # Of an SQLite file that ends early nothing is sure.
    assert (num_read > 0) is (kind != "Trackio")


@pytest.mark.parametrize("kind", ["TensorBoard", "JSON lines", "CSV", "Trackio"])
def test_no_broken_byte_raises_anything_else(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, LOSSES)
    content = path.read_bytes()
    for at in range(0, min(len(content), 4000), 41):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        log = read_or_refused(path)
        assert log is None or len(log) > 0


@pytest.mark.parametrize("part", ["length", "data"])
def test_a_broken_record_costs_no_other(tmp_path: Path, part: str) -> None:
    records = [record(event(step, {"loss": LOSSES[step]})) for step in range(40)]
    broken = bytearray(records[20])
    broken[0 if part == "length" else 20] ^= 0xFF
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"".join([*records[:20], bytes(broken), *records[21:]]))
    log = read_loss_log(path)
    assert log.columns["loss"][:] == LOSSES[:20] + LOSSES[21:]
    assert log.damage.num_bad_crc == 1


def test_a_document_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    path = write_trainer_state(tmp_path, LOSSES)
    path.write_bytes(path.read_bytes()[:3000])
    log = read_loss_log(path)
    assert log.damage.num_torn == 1
    assert len(log) > 5
    assert log.columns["loss"][:] == LOSSES[: len(log)]


def test_a_torn_last_line_is_no_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path, LOSSES)
    path.write_bytes(path.read_bytes()[:-9])
    log = read_loss_log(path)
    assert log.columns["loss"][:] == LOSSES[:-1]
    assert log.damage.describe() == "1 line torn"


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "log.csv"
    path.write_bytes(pickle.dumps(_Canary(canary)))
    with pytest.raises(InputError, match="pickle"):
        read_loss_log(path)
    base = sqlite3.connect(tmp_path / "view.db")
    base.execute("CREATE VIEW metrics AS SELECT 1 AS id, 'r' AS run_name, 1 AS step, load_extension('x') AS metrics")
    base.commit()
    base.close()
    with pytest.raises(InputError, match="Trackio"):
        read_loss_log(tmp_path / "view.db")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (gzip.compress(b"step,loss\n1,2\n", mtime=0), "compressed"),
        (b"\x28\xb5\x2f\xfd123", "compressed"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1rest", "Parquet"),
        (b":W&Brest", "history"),
        (b"step,loss\n", "no row"),
        (b"1,2\n3,4\n", "names no columns"),
        (b"loss,loss\n1,2\n", "twice"),
        (b"\0\0\0\0\n", "NUL"),
        (b"[1, 2, 3]", "no row|object"),
        (b'{"a": 1', "no row"),
        (b"\xff\xfe\n1\n", "no text"),
        (b"[" * 100_000, "deep"),
        (b"step," + b"x," * 20_000 + b"loss\n", "columns"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_loss_log(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "missing", "No such file"),
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path, "holds no events"),
        ("a\0b", "NUL"),
        ("x" * 5000, "too long"),
    ):
        with pytest.raises(InputError, match=reason):
            read_loss_log(path)


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path, LOSSES)
    with pytest.raises(UsageError, match=r"'nll'.*step, loss, lr"):
        read_loss_log(path, {"loss": "nll"})
    with pytest.raises(UsageError, match=r"no channel.*'los'"):
        read_loss_log(path, {"los": "loss"})
    path.write_text("step,accuracy\n1,2\n")
    with pytest.raises(UsageError, match=r"hold the loss.*accuracy.*loss=NAME"):
        read_loss_log(path)


def test_a_bad_cell_beside_the_loss_does_not_cost_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"step": 0, "loss": 1.0, "lr": "warm", "grad_norm": None}, {"step": 1, "loss": 2.0, "lr": 0.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_loss_log(path)
    assert log.columns["loss"][:] == [1.0, 2.0]
    assert log.columns["lr"][:] == [None, 0.5]
    assert log.damage.num_rejected == 1
