"""``numguard scaling``: its exit codes, its one-line refusals, and that nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from numguard.cli import main

RUNS = "run,flops,loss\n" + "".join(
    f"r{n},{c:g},{1.7 + 30 * c**-0.09 * (1 + 0.002 * (-1) ** n):.6f}\n"
    for n, c in enumerate([1e15, 3e15, 1e16, 3e16, 1e17, 3e17, 1e18])
)
FIT = ("--column", "C=flops")


@pytest.fixture
def runs(tmp_path: Path) -> str:
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    return str(path)


def _said(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    assert main(["scaling", *words]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def _refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    out, err = _said(capsys, 2, *words)
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("numguard: ")
    return line


def _json(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> Any:
    return json.loads(_said(capsys, code, *words, "--json")[0], parse_constant=pytest.fail)


def test_the_whole_story(tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = str(tmp_path / "predictions.json")
    out, err = _said(capsys, 0, "fit", runs, *FIT)
    assert err == ""
    assert "a*C^b + c" in out
    assert "90% interval" in out
    predicted = _json(capsys, 0, "predict", runs, *FIT, "--at", "C=1e20", "--at", "C=1e21")["rows"]
    assert [row["C"] for row in predicted] == [1e20, 1e21]
    registered = _json(capsys, 0, "register", registry, runs, *FIT, "--at", "C=1e20", "--name", "large")
    assert registered["value"] == [predicted[0]["value"]]
    assert registered["low"][0] < registered["value"][0] < registered["high"][0]
    inside = f"{registered['value'][0]:.6f}"
    words = ("verify", registry, "--receipt", registered["receipt"])
    assert "is inside the 90% interval" in _said(capsys, 0, *words, "--outcome", inside)[0]
    assert _json(capsys, 0, "verify", registry)["inside"] == [True]


def test_a_miss_is_exit_code_1(tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = str(tmp_path / "predictions.json")
    out, _ = _said(capsys, 0, "register", registry, runs, *FIT, "--at", "C=1e20", "--name", "large", "--note", "why")
    assert "receipt: " in out
    assert "is above the 90% interval" in _said(capsys, 1, "verify", registry, "--outcome", "9.5")[0]
    assert _json(capsys, 1, "verify", registry)["ok"] is False


def test_columns_beside_the_laws_are_kept(tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--at", "C=1e19", "--at", "C=1e20", "--also", "step=10", "--also", "step=100", "--name", "curve")
    content = _json(capsys, 0, "register", str(tmp_path / "r.json"), runs, *FIT, *words)
    assert content["columns"] == {"C": [1e19, 1e20], "step": [10.0, 100.0]}


def test_rows_to_predict_may_stand_in_a_file(tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = tmp_path / "places.csv"
    places.write_text("C\n1e19\n1e20\n")
    rows = _json(capsys, 0, "predict", runs, *FIT, "--at", str(places))["rows"]
    assert [row["C"] for row in rows] == [1e19, 1e20]
    places.write_text("C\n1e19\nmany\n")
    assert "every row that is predicted must be whole" in _refusal(capsys, "predict", runs, *FIT, "--at", str(places))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("r7,1e19", "line 9: has 2 cells where the header has 3"),
        ("r7,1e19,nan", "line 9: loss is 'nan', no finite number"),
        ("r7,1e999,2.0", "line 9: flops is '1e999', no finite number"),
        ("r7,1_000,2.0", "line 9: flops is '1_000', no finite number"),
        ("r7,,2.0", "line 9: flops is '', no finite number"),
        ("r7,1e19,\x1b[2J", "line 9: loss is '\\x1b[2J', no finite number"),
        ('r7,1e19,"2.0', "line 9: the rest of the file is not CSV"),
    ],
)
def test_a_damaged_row_is_left_out_and_said(
    runs: str, capsys: pytest.CaptureFixture[str], broken: str, reason: str
) -> None:
    whole = _json(capsys, 0, "fit", runs, *FIT)
    Path(runs).write_text(RUNS + broken)
    out, err = _said(capsys, 3, "fit", runs, *FIT, "--json")
    (line,) = err.splitlines()
    assert line.startswith(f"numguard: {runs}: 1 row left out (")
    assert reason in line
    assert json.loads(out)["params"] == whole["params"]


@pytest.mark.parametrize("text", [RUNS.replace("\n", "\r\n"), RUNS.replace("\n", "\r"), "\ufeff" + RUNS[:-1]])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_line_ends_and_delimiters_are_read(
    runs: str, capsys: pytest.CaptureFixture[str], text: str, delimiter: str
) -> None:
    whole = _json(capsys, 0, "fit", runs, *FIT)
    Path(runs).write_bytes(text.replace(",", delimiter).encode())
    assert _json(capsys, 0, "fit", runs, *FIT) == whole


HOSTILE = {
    "empty": (b"", "line 1: is empty"),
    "only a header": (b"flops,loss\n", "holds no usable row"),
    "nothing but text": (b"flops,loss\na,b\n", "holds no usable row (line 2: "),
    "a name twice": (b"flops,flops\n1,2\n", "names the column 'flops' twice"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "looks compressed"),
    "pickle": (b"\x80\x04\x95rest", "is a pickle"),
    "NUL": (b"flops,loss\n1\x00,2\n", "byte 12: is a NUL"),
    "latin-1": (b"flops,loss\n1,\xe9\n", "byte 13: is not UTF-8"),
    "one endless cell": (b"flops,loss\n" + b"9" * 200_000 + b",1\n", "is not CSV: field larger"),
    "a million columns": (b"c," * 20_000 + b"\n", "names 20001 columns"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_table_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    path = tmp_path / "hostile.csv"
    path.write_bytes(content)
    line = _refusal(capsys, "fit", str(path), *FIT)
    assert line.startswith(f"numguard: {path}: ")
    assert reason in line


def test_a_hostile_name_is_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\x1b]0;x\x07,loss\n1,2\n")
    assert "\x1b" not in _refusal(capsys, "fit", str(path))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("fit", "RUNS"), "no column 'C' for C; it has run, flops, loss: say which with --column C=…"),
        (("fit", "RUNS", "--column", "C"), "--column 'C' is not NAME=COLUMN"),
        (("fit", "RUNS", "--column", "D=flops"), "power has no column 'D'; it has C"),
        (("fit", "RUNS", *FIT, "--law", "guess"), "no law is named 'guess'; there are power, "),
        (("fit", "RUNS", *FIT, "--loss", "ppl"), "no column 'ppl' for loss"),
        (("fit", "no-such.csv"), "no-such.csv: there is no such file"),
        (("fit", "."), "is not a file"),
        (("predict", "RUNS", *FIT), "nothing says what to predict; type --at C=…"),
        (("predict", "RUNS", *FIT, "--at", "C=big"), "--at 'C=big' is not NAME=NUMBER"),
        (("predict", "RUNS", *FIT, "--at", "C=-1"), "above 0"),
        (("predict", "RUNS", *FIT, "--at", "C=1e20", "--level", "2"), "is not a coverage"),
        (("verify", "no-such.json"), "no-such.json: there is no such file"),
        (("verify", "RUNS"), "is not JSON"),
    ],
)
def test_a_mistake_is_one_line(
    runs: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert reason in _refusal(capsys, *(runs if word == "RUNS" else word for word in words))


@pytest.mark.parametrize("words", [(), ("fitt",), ("fit",), ("register", "r.json")])
def test_bad_usage_is_exit_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = _said(capsys, 2, *words)
    assert out + err


@pytest.mark.parametrize("axis", ["step", "tokens"])
def test_a_place_before_the_run_is_not_registered(
    tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str], axis: str
) -> None:
    words = ("register", str(tmp_path / "r.json"), runs, *FIT, "--at", "C=1e20", "--name", "large")
    assert f"{axis}=-5 is no place of a run; pass values from 0 on" in _refusal(capsys, *words, "--also", f"{axis}=-5")
    assert not (tmp_path / "r.json").exists()
    assert _said(capsys, 0, *words, "--also", f"{axis}=0")


def test_a_registry_that_was_changed_is_refused_and_kept(
    tmp_path: Path, runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "predictions.json"
    _said(capsys, 0, "register", str(registry), runs, *FIT, "--at", "C=1e20", "--name", "large", "--note", "before")
    registry.write_text(registry.read_text().replace("before", "behind"))
    changed = registry.read_bytes()
    assert "entry 1: was changed after it was written" in _refusal(capsys, "verify", str(registry), "--outcome", "2")
    again = ("register", str(registry), runs, *FIT, "--at", "C=1e21", "--name", "larger")
    assert "entry 1: was changed after it was written" in _refusal(capsys, *again)
    assert registry.read_bytes() == changed


@pytest.mark.parametrize("law", ["chinchilla", "data-constrained", "power-no-floor", "capability"])
def test_other_laws_take_their_own_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str], law: str) -> None:
    path = tmp_path / "runs.csv"
    rows = ["N,D,U,C,loss,pass_rate"]
    for n in (1e7, 3e7, 1e8, 3e8):
        for d in (1e9, 4e9, 1.6e10):
            loss = 1.8 + 400 / n**0.34 + 400 / d**0.28
            rows.append(f"{n},{d},{min(d, 4e9)},{6 * n * d},{loss},{2.718281828 ** -((n * d / 1e16) ** -0.1)}")
    path.write_text("\n".join(rows))
    assert _json(capsys, 0, "fit", str(path), "--law", law)["num_points"] == 12
