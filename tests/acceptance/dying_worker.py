"""A worker whose tasks die in every way that the pool has to survive."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from numguard.acceptance.worker import serve


def _square(given: Mapping[str, Any]) -> Any:
    return given["x"] ** 2


def _die(given: Mapping[str, Any]) -> Any:
    if given["how"] == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if given["how"] == "sleep":
        time.sleep(60)
    while given["how"] == "spin":
        pass
    if given["how"] == "memory":
        raise MemoryError
    if given["how"] == "error":
        raise ValueError("no")
    return given["how"]


if __name__ == "__main__":
    serve({"square": _square, "die": _die})
