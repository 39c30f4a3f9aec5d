"""A capsule: the inputs of one call that was found wrong, so that it can be run again. Private data of the run.

One safetensors file; what is not a tensor stands as JSON in its header. No pickle, so reading one runs nothing.
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, deserialize

from numguard.errors import InputError
from numguard.records.atomic_file import write_atomically

SCHEMA: Final = 1
_KEY: Final = "numguard"
_MOST_HEADER_BYTES: Final = 4 * 2**20
_MOST_FILE_BYTES: Final = 16 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor as bytes in row-major order.

    Parameters
    ----------
    dtype
        Name in the safetensors format: ``"F32"``, ``"BF16"``, ``"I64"``.
    shape
        Its shape.
    data
        Its elements.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Capsule:
    """One call.

    Parameters
    ----------
    content
        Plain JSON values: the operator, its arguments, the layouts of its tensors, the finding.
    tensors
        By name.
    """

    content: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def write_capsule(path: Path, capsule: Capsule) -> None:
    """Write a capsule, whole or not at all, readable by its owner only.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    text = json.dumps({"schema": SCHEMA, **capsule.content}, allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    end = 0
    for name, entry in capsule.tensors.items():
        begin, end = end, end + len(entry.data)
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
    line = json.dumps(header, allow_nan=False).encode()
    line += b" " * (-len(line) % 8)  # the format asks for aligned tensors
    whole = b"".join([struct.pack("<Q", len(line)), line, *(entry.data for entry in capsule.tensors.values())])
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, whole)


def read_capsule(path: str | os.PathLike[str]) -> Capsule:
    """Return the capsule in a file.

    Raises
    ------
    InputError
        If there is none, or the file is damaged, hostile or something else.
    """
    raw, header = _bytes_of(Path(path))
    try:
        metadata = json.loads(header).get("__metadata__", {})
        content = json.loads(metadata[_KEY])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
        raise InputError(path, "header", f"holds no capsule of numguard ({str(failure)[:80]})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(path, "header", f"is not a capsule of schema {SCHEMA}")
    try:
        entries = deserialize(raw)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as failure:
        raise InputError(path, "", f"is not a safetensors file ({str(failure)[:80]})") from None
    tensors = {
        name: StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), data=bytes(entry["data"]))
        for name, entry in entries
    }
    return Capsule(content=content, tensors=tensors)


def _bytes_of(path: Path) -> tuple[bytes, bytes]:
    try:
        if not path.is_file():
            raise InputError(str(path)[:200], "", "is not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(_MOST_HEADER_BYTES, max(0, size - 8)) or size > _MOST_FILE_BYTES:
                raise InputError(str(path)[:200], "byte 0", "is not a capsule: the length of its header is impossible")
            header = file.read(length)
            return prefix + header + file.read(), header
    except (OSError, ValueError) as failure:
        if isinstance(failure, InputError):
            raise
        raise InputError(str(path)[:200], "", getattr(failure, "strerror", None) or str(failure)) from None
