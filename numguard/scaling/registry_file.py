"""The registry as a file: hostile until it is read, and either the old one or the whole new one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from numguard.errors import InputError, UsageError
from numguard.records.atomic_file import write_atomically
from numguard.scaling.registry_chain import GENESIS, Chain, Entry, hash_of
from numguard.scaling.registry_entries import check_content

SCHEMA: Final = 1
_MOST_BYTES: Final = 64 * 2**20
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zXZ")


class _Rewriting:
    """A chain that is read under a lock, and grows."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def append(self, entry: Entry) -> None:
        self.chain = Chain(entries=(*self.chain.entries, entry))


@contextmanager
def rewriting(path: Path) -> Iterator[_Rewriting]:
    """Read a registry, or start an empty one, and write what was appended inside; nobody else writes meanwhile.

    Raises
    ------
    InputError
        The file is no registry or was changed after it was written.
    UsageError
        It cannot be written there.
    """
    if "\0" in str(path):
        raise UsageError(f"{ascii(str(path))[:80]} is no path: it holds a NUL character; nothing was registered")
    with _locked(path):
        file = _Rewriting(read_chain(path) if _there(path) else Chain())
        before = len(file.chain.entries)
        yield file
        if len(file.chain.entries) == before:
            return
        try:
            write_atomically(path, _text(file.chain).encode("ascii"), mode=0o644)
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written ({error.strerror}); nothing was registered") from None


def read_chain(path: Path) -> Chain:
    """Return the entries of a registry, every hash checked.

    Raises
    ------
    InputError
        The file is missing, too large, no JSON, no registry, of another schema, or was changed after it was written.
    """
    document = _parsed(path)
    if not isinstance(document, dict) or document.get("what") != "numguard registry of predictions":
        raise InputError(path, "", "is not a registry of predictions (numguard scaling register writes one)")
    schema = document.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(path, "schema", f"is {str(schema)[:20]}; this version of numguard reads {SCHEMA}")
    entries = document.get("entries")
    if not isinstance(entries, list):
        raise InputError(path, "entries", "is not a list")
    chain: list[Entry] = []
    for number, raw in enumerate(entries, start=1):
        previous = chain[-1].hash if chain else GENESIS
        chain.append(_entry(path, f"entry {number}", raw, previous, chain))
    return Chain(entries=tuple(chain))


def _entry(path: Path, place: str, raw: Any, previous: str, before: list[Entry]) -> Entry:
    keys = {"time": str, "previous": str, "hash": str, "content": dict}
    if not isinstance(raw, dict) or set(raw) != set(keys):
        raise InputError(path, place, f"must hold {', '.join(keys)}, and nothing else")
    wrong = [key for key, kind in keys.items() if not isinstance(raw[key], kind)]
    if wrong:
        raise InputError(path, f"{place}: {wrong[0]}", f"is not a {keys[wrong[0]].__name__}")
    content: Mapping[str, Any] = raw["content"]
    if raw["previous"] != previous:
        raise InputError(path, place, "does not follow the entry before it: one was changed, moved or taken out")
    try:
        found = hash_of(content, previous=raw["previous"], time=raw["time"])
    except (ValueError, RecursionError):
        raise InputError(path, place, "holds values that no registry writes") from None
    if found != raw["hash"]:
        raise InputError(path, place, "was changed after it was written: its hash does not fit its content")
    reason = check_content(content, [entry.content for entry in before])
    if reason:
        raise InputError(path, place, reason)
    return Entry(time=raw["time"], previous=raw["previous"], content=content, hash=raw["hash"])


def _parsed(path: Path) -> Any:
    data = _bytes(path)
    if data.startswith(_COMPRESSED):
        raise InputError(path, "", "looks compressed; unpack it first")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise InputError(path, f"byte {error.start}", "is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InputError(path, f"line {error.lineno}, column {error.colno}", f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(path, "", "is nested too deeply for a registry") from None
    except (ValueError, OverflowError) as error:
        raise InputError(path, "", f"is not strict JSON: {str(error)[:80]}") from None


def _bytes(path: Path) -> bytes:
    if "\0" in str(path):
        raise InputError(ascii(str(path))[:80], "", "is no path: it holds a NUL character")
    try:
        if not path.is_file():
            raise InputError(path, "", "is not a file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(str(path)[:200], "", f"cannot be read ({error.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise InputError(path, "", f"is larger than {_MOST_BYTES >> 20} MiB, which no registry is")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice[:40]!r} stands there twice")
    return dict(pairs)


def _constant(name: str) -> Any:
    raise ValueError(f"it holds {name}")


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        raise UsageError(f"{str(path)[:80]!r} cannot be a file here; pass another path") from None


def _text(chain: Chain) -> str:
    entries = [
        {"time": entry.time, "previous": entry.previous, "content": entry.content, "hash": entry.hash}
        for entry in chain.entries
    ]
    whole = {"what": "numguard registry of predictions", "schema": SCHEMA, "entries": entries}
    return json.dumps(whole, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on the registry's folder: nothing stays behind, and a killed process lets go of it."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such path"
        raise UsageError(f"{str(path)[:200]!r} cannot be written ({reason}); nothing was registered") from None
    try:
        # Where folders cannot be locked (Windows, some network file systems) the last of two that race wins; what it
        # writes is whole.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
