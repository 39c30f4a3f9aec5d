"""The command as a whole: version, help, mistakes."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from numguard.cli import main
from numguard.cli.application import VERBS
from numguard.cli.run import separate


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_no_verb_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", [*VERBS])
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run"], "The script's own exit code is passed through"),
        (["curve"], "Reads CSV, JSON lines, trainer_state.json"),
        (["report"], "Exits with 0 if nothing was found"),
        (["audit"], "Exits with 0 if nothing new was found"),
        (["replay"], "Exits with 0 if a correct implementation"),
        (["demo"], "Takes about a minute"),
        (["scaling", "verify"], "Exits with 0 if the outcome is inside"),
    ],
)
def test_the_help_page_of_a_verb_tells_its_exit_codes(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert sentence in " ".join(text.split())
    assert "--empty" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu", "train.py"], "did you mean 'run'?"),
        (["--verison"], "type --help, --version, or a verb"),
        (["scaling", "fti", "runs.csv", "--law", "power"], "there are fit, predict, register, verify"),
        (["scaling", "fit"], "See numguard scaling fit --help"),
        (["report"], "See numguard report --help"),
        (["audit", "--seconds", "-1"], "give a number above 0"),
        (["audit", "--seconds", "nan"], "give a number above 0"),
    ],
)
def test_a_mistake_says_what_to_type_instead(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_a_run_dir_that_is_a_file_is_told_before_the_program_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('it ran')")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--run-dir", str(script), str(script)])
    assert ended.value.code == 2
    seen = capsys.readouterr()
    assert "train.py is a file; give a folder" in seen.err
    assert seen.out == ""
    assert script.read_text() == "print('it ran')"


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["demo", "--steps", "many"],
        ["demo", "--fault", "rain"],
        ["--loud"],
        ["report"],
        ["scaling", "dance"],
        ["run", "--loud"],
        ["run", "--loud", "train.py"],
        ["run", "--capture", "all", "train.py"],
    ],
)
def test_bad_usage_is_one_line_and_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("numguard: ")
    assert seen.err.count("\n") == 1
    assert any(word.strip("-") in seen.err for word in words[-2:])


def test_without_the_extra_the_pip_command_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_cyclopts(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cyclopts":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cyclopts)
    assert main(["demo"]) == 2
    assert "pip install 'numguard-torch[cli]'" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "numguard", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.py"], ["--", "train.py"]),
        (["train.py", "--seed", "3"], ["--", "train.py", "--seed", "3"]),
        (["--seed", "3", "train.py", "-m"], ["--seed", "3", "--", "train.py", "-m"]),
        (["--seed=3", "--exit-code", "-m", "a.b", "-x"], ["--seed=3", "--exit-code", "--", "-m", "a.b", "-x"]),
        (["--exit-code", "--", "-odd.py"], ["--exit-code", "--", "-odd.py"]),
        (["--help"], ["--help", "--"]),
        ([], ["--"]),
    ],
)
def test_options_end_where_the_program_begins(words: list[str], expected: list[str]) -> None:
    assert separate(words) == expected


@pytest.mark.parametrize("verb", ["curve", "report", "scaling"])
def test_verbs_that_read_files_start_without_torch(verb: str) -> None:
    code = f"import sys, numguard.cli.{verb}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
