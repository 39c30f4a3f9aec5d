"""A file of accepted fingerprints: known defects that a run should not stop for.

::

    [[accepted]]
    fingerprint = "0123456789ab"
    reason = "known defect of torch 2.13.0, see ..."
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Final

from numguard.errors import InputError

_MAX_BYTES: Final = 16 * 2**20
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")
_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)")


def read_accepted(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the accepted fingerprints of a TOML file with the reason of each.

    Parameters
    ----------
    path
        A file of ``[[accepted]]`` tables, each with ``fingerprint`` and ``reason``; further keys are allowed.

    Raises
    ------
    InputError
        If it cannot be read, is not TOML, or a table lacks its fingerprint or its reason; names the line.
    """
    text = _text_of(Path(path))
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        message = str(failure)
        place = _PLACE.search(message)
        at_end = f"{text.count(chr(10)) + 1}:{len(text) - text.rfind(chr(10))}"
        raise InputError(path, f"{place[1]}:{place[2]}" if place else at_end, message.partition(" (at ")[0]) from None
    except (ValueError, RecursionError) as failure:
        raise InputError(path, "", f"not usable TOML ({str(failure)[:80]})") from None
    tables = content.get("accepted")
    if not isinstance(tables, list):
        raise InputError(
            path, "1:1", 'holds no [[accepted]] table; write [[accepted]], fingerprint = "...", reason = "..."'
        )
    lines = [index for index, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*accepted\s*\]\]", line)]
    accepted: dict[str, str] = {}
    for index, table in enumerate(tables):
        place_of_table = f"{lines[index]}:1" if index < len(lines) else f"accepted[{index}]"
        fingerprint, reason = _entry(path, place_of_table, table)
        accepted.setdefault(fingerprint, reason)
    return accepted


def _entry(path: object, place: str, table: object) -> tuple[str, str]:
    if not isinstance(table, dict):
        raise InputError(path, place, "an entry of accepted is not a table")
    fingerprint, reason = table.get("fingerprint"), table.get("reason")
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        shown = "missing" if fingerprint is None else f"{str(fingerprint)[:40]!r}"
        raise InputError(path, place, f"fingerprint is {shown}, not the 12 hexadecimal digits that a finding shows")
    if not isinstance(reason, str) or not reason.strip():
        raise InputError(path, place, f"fingerprint {fingerprint} has no reason; say why it is accepted")
    return fingerprint, reason


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise InputError(str(path)[:200], "", "is not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as failure:
        if isinstance(failure, InputError):
            raise
        raise InputError(str(path)[:200], "", getattr(failure, "strerror", None) or str(failure)) from None
    if len(raw) > _MAX_BYTES:
        raise InputError(path, "", f"longer than {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        column = failure.start - raw.rfind(b"\n", 0, failure.start)
        raise InputError(path, f"{line}:{column}", "not UTF-8") from None
