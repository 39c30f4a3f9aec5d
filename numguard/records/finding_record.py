"""A finding as fields of an event and as a file of its own."""

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numguard.finding import KINDS, Finding
from numguard.records.atomic_file import write_atomically
from numguard.records.lines import as_plain
from numguard.records.schema import SCHEMA

_FIELDS = tuple(field.name for field in dataclasses.fields(Finding))
_CHOICES = {
    "kind": tuple(KINDS),
    "severity": ("error", "warning", "notice"),
    "proof": ("bound", "exact", "none"),
    "model": ("proved", "calibrated", "assumed", "none"),
    "confirmed": ("re-executed", "second-shadow", "exact", "no"),
}
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return the fields of a ``finding`` event: ``log.write("finding", **finding_fields(finding))``."""
    return {name: getattr(finding, name) for name in _FIELDS}


def finding_from(fields: Mapping[str, Any]) -> Finding | str:
    """Return the finding that an accepted ``finding`` event describes, or why it describes none."""
    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            return f"finding.{name} is {fields[name][:40]!r}, not one of {', '.join(choices)}"
    return Finding(**{name: fields[name] for name in _FIELDS})


def finding_path(run_dir: Path, finding_id: str) -> Path:
    """Return where the summary of a finding stands. An id that is no plain file name is replaced by its checksum."""
    name = (
        finding_id if _SAFE_NAME.fullmatch(finding_id) else f"{zlib.crc32(finding_id.encode('utf-8', 'replace')):08x}"
    )
    return run_dir / "findings" / f"{name}.json"


def write_finding(run_dir: Path, fields: Mapping[str, object], *, durable: bool = True) -> Path:
    """Write ``RUN/findings/<id>.json``, whole or not at all, readable by its owner only.

    Parameters
    ----------
    run_dir
        The run's directory.
    fields
        The fields of a ``finding`` event.
    durable
        Flush it to the disk before returning.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = finding_path(run_dir, str(fields["id"]))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {"schema": SCHEMA, **{name: fields[name] for name in _FIELDS}}
    write_atomically(path, json.dumps(as_plain(content), indent=1, allow_nan=False).encode() + b"\n", durable=durable)
    return path
