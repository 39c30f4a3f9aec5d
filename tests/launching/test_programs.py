"""A program runs as ``__main__`` as it would under ``python``: same surroundings, same exit, same traceback.

Every case runs the same file twice in child processes, under ``python`` and under ``numguard run``, and compares.
``NUMGUARD=off`` leaves the guard out: what is compared here is the launching alone.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NUMGUARD": "off", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def _both(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    return _run(folder, *words), _run(folder, "-m", "numguard", "run", *words)


def _write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))


SURROUNDINGS = """
    import sys
    import neighbour
    print(__name__, __file__, __package__, __spec__ is None or __spec__.name, sys.argv, sys.path[0])
    print(sys.modules["__main__"].__dict__ is globals(), neighbour.here)
"""


def test_a_script_finds_its_surroundings(tmp_path: Path) -> None:
    _write(tmp_path / "below" / "train.py", SURROUNDINGS)
    _write(tmp_path / "below" / "neighbour.py", "here = 1")
    bare, ours = _both(tmp_path, "below/train.py", "--seed", "3", "-m", "x", "--", "--run-dir", "y")
    assert bare.returncode == 0, bare.stderr
    assert ours.stdout == bare.stdout


@pytest.mark.parametrize("name", ["package.train", "package", "train"])
def test_a_module_finds_its_surroundings(tmp_path: Path, name: str) -> None:
    for path in ("package/train.py", "package/__main__.py", "train.py"):
        _write(tmp_path / path, SURROUNDINGS)
    _write(tmp_path / "package" / "__init__.py", "")
    _write(tmp_path / "neighbour.py", "here = 1")
    bare, ours = _both(tmp_path, "-m", name, "--flag", "7")
    assert bare.returncode == 0, bare.stderr
    assert ours.stdout == bare.stdout


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "sys.exit()",
        "sys.exit(0)",
        "sys.exit(3)",
        "sys.exit('words')",
        "raise SystemExit(255)",
        "os._exit(9)",
        "raise KeyboardInterrupt",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "quit(4)",
        "atexit.register(print, 'late')",
        "__import__('numguard').guard(budget=7)",
    ],
)
def test_the_exit_code_passes_through(tmp_path: Path, ending: str) -> None:
    _write(tmp_path / "train.py", f"import atexit, os, signal, sys\nprint('begun', flush=True)\n{ending}\n")
    bare, ours = _both(tmp_path, "train.py")
    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return 1 / 0\nf()\n",
        "try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('no x') from e\n",
        "def f(:\n",
        "import absent_module\n",
        "raise ExceptionGroup('two', [ValueError('a'), TypeError('b')])\n",
    ],
)
def test_the_traceback_is_that_of_the_program(tmp_path: Path, source: str) -> None:
    _write(tmp_path / "train.py", source)
    bare, ours = _both(tmp_path, "train.py")
    assert bare.returncode == 1
    # CPython underlines a whole line for code that it loads by itself only: carets are no part of the promise.
    kept = [[line for line in done.stderr.splitlines() if set(line.strip()) - set("^~")] for done in (bare, ours)]
    assert kept[0] == kept[1]
    assert ours.returncode == 1


def test_the_hook_of_the_program_gets_the_traceback_of_the_program(tmp_path: Path) -> None:
    _write(
        tmp_path / "train.py",
        """
        import sys, traceback
        sys.excepthook = lambda kind, value, trace: print([f.name for f in traceback.extract_tb(trace)], kind.__name__)
        raise ValueError
        """,
    )
    bare, ours = _both(tmp_path, "train.py")
    assert ours.stdout == bare.stdout == "['<module>'] ValueError\n"


def test_spawned_and_forked_workers_find_the_program(tmp_path: Path) -> None:
    _write(
        tmp_path / "train.py",
        """
        import multiprocessing, sys

        def work(x):
            return x * 2

        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    print(pool.map(work, range(4)))
        """,
    )
    bare, ours = _both(tmp_path, "train.py")
    assert bare.returncode == 0, bare.stderr
    assert ours.stdout == bare.stdout


def test_a_folder_with_a_main_runs(tmp_path: Path) -> None:
    _write(tmp_path / "job" / "__main__.py", "import sys\nprint(__name__, sys.argv)\n")
    bare, ours = _both(tmp_path, "job", "a")
    assert ours.stdout == bare.stdout == "__main__ ['job', 'a']\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["absent.py"], "cannot run absent.py: no such file or directory; give the path of a script, or -m MODULE"),
        (["-m", "absent"], "no module named absent"),
        (["-m", "package.absent"], "no module named package.absent"),
        (["-m"], "no program was given"),
        ([], "no program was given"),
        (["--budget", "much", "train.py"], "much"),
        (["--absent", "1", "train.py"], "numguard run has no option --absent"),
        (["package"], "cannot run package: holds no __main__.py"),
        (["broken.zip"], "cannot run broken.zip: holds no __main__.py"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(tmp_path: Path, words: list[str], expected: str) -> None:
    _write(tmp_path / "package" / "__init__.py", "")
    _write(tmp_path / "train.py", "print('ran')")
    _write(tmp_path / "broken.zip", "no archive")
    done = _run(tmp_path, "-m", "numguard", "run", *words)
    assert done.returncode == 2
    assert expected in " ".join((done.stderr + done.stdout).split())
    assert "Traceback" not in done.stderr
    assert "ran" not in done.stdout
