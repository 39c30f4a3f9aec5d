"""The text that the demo learns: the source of the Python standard library, which is on every machine."""

import sysconfig
from pathlib import Path

from numguard.errors import UsageError

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})


def standard_library_text(num_bytes: int = 4 * 2**20) -> bytes:
    """Return the first bytes of the standard library's own modules, in the order of their names.

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
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if _LEFT_OUT.intersection(path.relative_to(root).parts):
            continue
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= num_bytes:
            break
    if size < 2**16:
        raise UsageError(f"the demo reads the standard library's source, and {root} holds none: use another Python")
    return b"".join(parts)[:num_bytes]
