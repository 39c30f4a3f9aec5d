"""Entries that hold each other's hashes, so that a later change of one shows."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: What the first entry names as the one before it.
GENESIS: Final = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a registry.

    Parameters
    ----------
    time
        UTC, ISO 8601, when it was written.
    previous
        Hash of the entry before it; :data:`GENESIS` for the first.
    content
        Plain JSON values: a prediction or an outcome.
    hash
        SHA-256 of the three above, in hexadecimal.
    """

    time: str
    previous: str
    content: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """All entries of a registry, oldest first."""

    entries: tuple[Entry, ...] = ()

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self.entries[-1].hash if self.entries else GENESIS

    def outcome_of(self, name: str) -> Entry | None:
        """Return the recorded outcome of a prediction, or None."""
        found = [
            entry for entry in self.entries if entry.content["kind"] == "outcome" and entry.content["name"] == name
        ]
        return found[-1] if found else None


def sealed(content: Mapping[str, Any], *, previous: str, time: str) -> Entry:
    """Return an entry with its hash."""
    return Entry(time=time, previous=previous, content=content, hash=hash_of(content, previous=previous, time=time))


def hash_of(content: Mapping[str, Any], *, previous: str, time: str) -> str:
    """Return the SHA-256 of an entry in canonical JSON: sorted keys, no spaces, ASCII, shortest floats."""
    whole = {"time": time, "previous": previous, "content": content}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
