"""``numguard report``: its exit codes, its one-line refusals, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from numguard.cli import main
from tests.report.hostile_run import TERMINAL, write_hostile_run
from tests.report.recorded_run import write_run

ROOT = Path(__file__).parents[2]


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("numguard: ")
    return line


def test_findings_are_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write_run(tmp_path))]) == 1
    captured = capsys.readouterr()
    assert "STOP" in captured.out
    assert captured.err == ""
    assert (tmp_path / "report.html").is_file()


def test_a_clean_run_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write_run(tmp_path, faulty=False)), "--no-html"]) == 0
    assert "GO ON" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_log_is_exit_code_3_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, faulty=False)
    file = sorted((tmp_path / "events").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-20])
    assert main(["report", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"numguard: {tmp_path}: 1 line torn (")
    assert "Damaged input" in captured.out


def test_findings_in_a_damaged_log_are_still_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    file = sorted((tmp_path / "events").iterdir())[1]
    file.write_bytes(file.read_bytes()[:-20])
    assert main(["report", str(tmp_path)]) == 1
    assert "torn" in capsys.readouterr().err


def test_json_is_strict_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write_run(tmp_path)), "--json", "--html", str(tmp_path / "page.html")]) == 1
    captured = capsys.readouterr()
    content = json.loads(captured.out, parse_constant=pytest.fail)
    assert content["verdict"] == "stop"
    assert content["say"].startswith("STOP: sum returns wrong results")
    assert content["causes"][0]["lead"]["location"] == "train.py:88"
    assert (tmp_path / "page.html").is_file()
    assert "page.html" in captured.err


@pytest.mark.parametrize("attack", TERMINAL, ids=range(len(TERMINAL)))
def test_no_output_carries_a_control_character(tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str) -> None:
    write_hostile_run(tmp_path, attack)
    for flags in ([], ["--json"]):
        main(["report", str(tmp_path), "--no-html", *flags])
        captured = capsys.readouterr()
        for text in (captured.out, captured.err):
            assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
            assert not set("\x7f\x85\x9b\u202e\u2066\u200f").intersection(text)


@pytest.mark.parametrize("path", ["missing", "evil\x1b[2Jname", "x" * 5_000])
def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / path)])
    assert ended.value.code == 2
    assert "\x1b" not in refusal(capsys)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    run = str(write_run(tmp_path / "run"))
    for place, says in {
        "file": "is a file; give a folder",
        "file/page.html": "is a file",
        "a\0b": "cannot be made",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["report", run, "--out", str(tmp_path / place)])
        assert ended.value.code == 2
        assert says in refusal(capsys), "said before anything is printed"
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("option", ["--out", "--html"])
@pytest.mark.parametrize(
    ("place", "page"), [("new/page.html", "new/page.html"), ("folder", "folder/report.html"), (".", "report.html")]
)
def test_a_page_goes_into_a_folder_or_a_file(tmp_path: Path, option: str, place: str, page: str) -> None:
    assert main(["report", str(write_run(tmp_path / "run")), option, str(tmp_path / place)]) == 1
    assert (tmp_path / page).is_file()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("words", [["report"], ["report", "a", "b"], ["report", "--bad", "a"], ["teapot"], []])
def test_bad_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


def test_an_unknown_verb_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repot"]) == 2
    assert "report" in refusal(capsys)


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra_the_command_to_install_it_is_printed(tmp_path: Path, missing: str) -> None:
    write_run(tmp_path)
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from numguard.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2
    assert "pip install 'numguard-torch[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_and_the_report_need_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path)
    program = "import sys; sys.modules['torch'] = None; from numguard.cli import main; sys.exit(main(sys.argv[1:]))"
    for words, code in ((["--version"], 0), (["report", str(tmp_path)], 1)):
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert done.returncode == code, done.stderr
        assert done.stdout.strip()


def test_ctrl_c_is_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr("numguard.cli.report.read_run", interrupted)
    assert main(["report", str(tmp_path)]) == 130


def test_a_termination_leaves_no_partial_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)

    def terminated(source: object, target: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr("numguard.records.atomic_file.os.replace", terminated)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 143
    assert {path.name for path in tmp_path.iterdir()} == {"events", "findings", "manifest.json"}
