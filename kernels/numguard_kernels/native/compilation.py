"""One plain call of the user's C++ compiler, and the library that comes out, kept by what went in."""

import contextlib
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from numguard_kernels.native.cache import cache_folder, require_private

SOURCE: Final = Path(__file__).with_name("twin.cpp")
#: No contraction and no fast-math: the error bounds need every addition and product as it is written.
FLAGS: Final = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-w"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
TIME_LIMIT_SECONDS: Final = 120.0
_COMPILERS: Final = ("c++", "g++", "clang++")
_STALE_SECONDS: Final = 3600.0


class CompilationError(Exception):
    """There is no library and none can be made; the message says why."""


def compiler_command() -> list[str]:
    """Return the compiler: ``$CXX``, which may carry arguments, else the first of c++, g++ and clang++ on the path.

    Raises
    ------
    CompilationError
        If there is none.
    """
    given = shlex.split(os.environ.get("CXX", ""))
    for command in [given] if given else [[name] for name in _COMPILERS]:
        found = shutil.which(command[0])
        if found is not None:
            return [found, *command[1:]]
    tried = given[0] if given else ", ".join(_COMPILERS)
    raise CompilationError(f"no C++ compiler was found (tried {tried}); install one or set CXX")


def library_path(command: list[str]) -> Path:
    """Return where the library of this source, compiler and these flags is kept, made or not.

    Raises
    ------
    CacheRefusedError
        As :func:`~numguard_kernels.native.cache.cache_folder`.
    """
    compiler = Path(command[0]).resolve()
    try:
        state = compiler.stat()
        text = SOURCE.read_bytes()
    except OSError as error:
        raise CompilationError(f"compiler or source cannot be read: {error}") from error
    parts = (compiler, state.st_size, state.st_mtime_ns, command[1:], FLAGS, platform.machine(), platform.system())
    key = hashlib.sha256(text + repr(parts).encode()).hexdigest()[:32]
    return cache_folder() / f"twin-{key}.so"


def kept_library() -> Path | None:
    """Return the library where it has been compiled before, or None.

    Raises
    ------
    CompilationError, CacheRefusedError
        Where none can be made either.
    """
    path = library_path(compiler_command())
    if not path.exists():
        return None
    require_private(path)
    return path


def compiled_library(limit_seconds: float = TIME_LIMIT_SECONDS) -> Path:
    """Return the library, compiling it if need be. Several processes may ask at once.

    Raises
    ------
    CompilationError, CacheRefusedError
        If there is no compiler, it fails or takes longer than the limit, or the cache cannot be used.
    """
    command = compiler_command()
    path = library_path(command)
    deadline = time.monotonic() + limit_seconds
    with _turn(path.with_suffix(".lock"), deadline):
        if not path.exists():
            _sweep(path.parent)
            _compile(command, path, max(1.0, deadline - time.monotonic()))
    require_private(path)
    return path


def _compile(command: list[str], path: Path, limit_seconds: float) -> None:
    made = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        outcome = subprocess.run(
            [*command, *FLAGS, "-o", str(made), str(SOURCE)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_seconds,
            check=False,
        )
        if outcome.returncode != 0:
            lines = outcome.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise CompilationError(f"{command[0]} failed with code {outcome.returncode}: {lines[0][:300]}")
        made.chmod(0o700)
        os.replace(made, path)
    except subprocess.TimeoutExpired as error:
        raise CompilationError(f"{command[0]} took longer than {limit_seconds:.0f} s") from error
    except OSError as error:
        raise CompilationError(f"the library cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            made.unlink()


@contextlib.contextmanager
def _turn(path: Path, deadline: float) -> Iterator[None]:
    """Let one process compile at a time, where the file system has locks; the renaming is safe without."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except (ImportError, OSError):
        yield
        return
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what a compiler that was killed has left."""
    for left in folder.glob(".twin-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
