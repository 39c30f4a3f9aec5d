"""``RUN/manifest.json``: what the run is, for whoever finds the directory, and how many ranks it should have."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numguard.errors import InputError
from numguard.records.atomic_file import write_atomically
from numguard.records.schema import SCHEMA

_MAX_BYTES = 2**20


def write_manifest(run_dir: Path, start: Mapping[str, object]) -> None:
    """Write the manifest from the fields of rank 0's ``start`` event; the time of the first start is kept.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    created: object = time.time()
    try:
        earlier = read_manifest(run_dir)
    except InputError:
        earlier = {}
    if isinstance(earlier.get("created"), float):
        created = earlier["created"]
    content = {
        "schema": SCHEMA,
        "created": created,
        "world_size": start["world_size"],
        "num_attempts": int(str(start["attempt"])) + 1,
        "version": start["version"],
        "torch": start["torch"],
        "layout": "events/rank<rank>-<attempt>-<pid>.jsonl, findings/<id>.json, report.html",
    }
    write_atomically(run_dir / "manifest.json", json.dumps(content, indent=1).encode() + b"\n", mode=0o644)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return the manifest, empty where there is none.

    Raises
    ------
    InputError
        If it is there and is not what :func:`write_manifest` writes.
    """
    path = run_dir / "manifest.json"
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as failure:
        raise InputError(path, "", failure.strerror or str(failure)) from None
    if len(raw) > _MAX_BYTES:
        raise InputError(path, "", f"longer than {_MAX_BYTES} bytes")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as failure:
        raise InputError(path, "", f"not JSON ({type(failure).__name__})") from None
    if not isinstance(content, dict):
        raise InputError(path, "", "not a JSON object")
    world_size = content.get("world_size")
    if type(world_size) is not int or not 1 <= world_size < 2**31:
        raise InputError(path, "world_size", "not a whole number from 1 to 2^31-1")
    return content
