"""The library comes out of one compiler call, into the user's own cache, whoever else asks at the same time."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from numguard_kernels.native import CacheRefusedError, CompilationError, Readiness, cache_folder
from numguard_kernels.native.compilation import compiled_library, compiler_command, kept_library
from numguard_kernels.native.library import LibraryError, load

SLOW_COMPILER = "#!/bin/sh\nexec sleep 20\n"


def program(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def needs_compiler() -> None:
    try:
        compiler_command()
    except CompilationError as error:
        pytest.skip(str(error))


def test_cache_is_private_and_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMGUARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "numguard"
    monkeypatch.setenv("NUMGUARD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_cache_that_others_may_write_to_is_refused(own_cache: Path) -> None:
    own_cache.mkdir()
    own_cache.chmod(0o777)
    with pytest.raises(CacheRefusedError, match="others may write"):
        cache_folder()


def test_cache_of_somebody_else_is_refused(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: own_cache.stat().st_uid + 1)
    with pytest.raises(CacheRefusedError, match="belongs to user"):
        cache_folder()


def test_relative_cache_and_unwritable_cache_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD_CACHE", "somewhere")
    with pytest.raises(CacheRefusedError, match="relative"):
        cache_folder()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("NUMGUARD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CacheRefusedError, match="cannot be made"):
        cache_folder()


def test_no_compiler_is_said(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own_cache))
    monkeypatch.delenv("CXX", raising=False)
    readiness = Readiness()
    assert readiness.wait() == "missing"
    assert "no C++ compiler was found" in readiness.reason
    assert readiness.library() is None


def test_compiler_that_fails_or_hangs(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", program(tmp_path / "failing", "#!/bin/sh\necho no such option >&2\nexit 3\n"))
    with pytest.raises(CompilationError, match="code 3: no such option"):
        compiled_library()
    monkeypatch.setenv("CXX", program(tmp_path / "slow", SLOW_COMPILER))
    with pytest.raises(CompilationError, match="longer than"):
        compiled_library(limit_seconds=0.2)
    assert not list(own_cache.glob("*.tmp"))
    assert not list(own_cache.glob("*.so"))


def test_library_that_is_none_is_refused(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", program(tmp_path / "empty", "#!/bin/sh\nexit 0\n"))  # leaves an empty file
    readiness = Readiness()
    assert readiness.wait() == "missing"
    assert "cannot be loaded" in readiness.reason
    with pytest.raises(LibraryError):
        load(tmp_path / "empty")


def test_four_processes_compile_at_once(own_cache: Path) -> None:
    needs_compiler()
    code = "from numguard_kernels.native import TWIN; print(TWIN.wait(), TWIN.reason)"
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths})
        for _ in range(4)
    ]
    assert [process.communicate(timeout=240)[0].split() for process in running] == [[b"ready"]] * 4
    assert len(list(own_cache.glob("*.so"))) == 1
    assert not list(own_cache.glob("*.tmp"))
    kept = kept_library()
    assert kept is not None
    assert not stat.S_IMODE(kept.stat().st_mode) & 0o077
    second = Readiness()
    assert second.begin() == "ready"  # at once: nothing is compiled again
    kept.chmod(0o777)
    third = Readiness()
    assert third.begin() == "missing"
    assert "others may write" in third.reason


def test_compiling_does_not_block(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", program(tmp_path / "brief", "#!/bin/sh\nsleep 1\nexit 1\n"))
    readiness = Readiness()
    assert readiness.begin() == "compiling"
    assert readiness.library() is None
    assert readiness.wait() == "missing"
