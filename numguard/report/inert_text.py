"""Text that came from a log, made harmless to look at: no control character, no reordering, no endless line."""

import re
import textwrap
from typing import Final

MOST_CHARACTERS: Final = 2_000
_WIDTH: Final = 100
# C0 and C1 controls, DEL, zero-width and bidirectional controls, line and paragraph separators, lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in "\n\t":
        return " "
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def inert(text: object, limit: int = MOST_CHARACTERS) -> str:
    """Return text in which every character can be seen for what it is.

    Parameters
    ----------
    text
        Anything; taken as ``str(text)``.
    limit
        Number of characters after which it is cut, with its whole length said.

    Returns
    -------
    str
        One line: line ends and tabs become spaces, everything else that is hidden its escape, such as ``\\x1b``.
    """
    whole = str(text)
    cut = whole if len(whole) <= limit else f"{whole[:limit]}... ({len(whole)} characters)"
    return _HIDDEN.sub(_escape, cut)


def wrapped(text: str, indent: str = "", rest: str | None = None) -> str:
    """Return harmless text in lines of at most 100 columns.

    Parameters
    ----------
    text
        What is to be said.
    indent, rest
        Before the first line and before every other; spaces as wide as ``indent`` by default.
    """
    below = " " * len(indent) if rest is None else rest
    return textwrap.fill(inert(text), _WIDTH, initial_indent=indent, subsequent_indent=below, break_on_hyphens=False)
