"""A user's mistake, told in one line instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from numguard.errors import InputError, UsageError
from numguard.report.inert_text import inert

BAD_USAGE: Final = 2


def refused(reason: str) -> int:
    """Print why something is refused, in one harmless line on standard error, and return the exit code for it."""
    print(f"numguard: {inert(reason)}", file=sys.stderr)
    return BAD_USAGE


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Print a :class:`UsageError` or :class:`InputError` raised inside as one line and exit with 2."""
    try:
        yield
    except (UsageError, InputError) as mistake:
        raise SystemExit(refused(str(mistake))) from None
