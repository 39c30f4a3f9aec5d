"""The text that the demo learns: the source of the Python standard library, which is on every machine."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from numguard.errors import UsageError

_LEAST_BYTES: Final = 2**16
_LEFT_OUT: Final = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})


def standard_library_text(num_bytes: int = 4 * 2**20) -> bytes:
    """Return the first bytes of the standard library's own modules, in a fixed order.

    Parameters
    ----------
    num_bytes
        Upper limit of what is returned.

    Raises
    ------
    UsageError
        This Python has no source text, as some embedded ones have none.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: list[bytes] = []
    size = 0
    for path in _modules(root):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= num_bytes:
            break
    if size < _LEAST_BYTES:
        raise UsageError(f"the demo reads the standard library's source, and {root} holds none: use another Python")
    return b"".join(parts)[:num_bytes]


def _modules(folder: Path) -> Iterator[Path]:
    """Yield files before folders, each by name."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    yield from (entry for entry in entries if entry.suffix == ".py" and entry.is_file())
    for entry in entries:
        if entry.is_dir() and entry.name not in _LEFT_OUT:
            yield from _modules(entry)
