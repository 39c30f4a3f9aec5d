"""One cell of a log as a number: from text, from JSON, from nothing."""

import math
from typing import Final

_LARGEST_STEP: Final = 2**63 - 1
_WORDS: Final = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "infinity": math.inf,
    "-inf": -math.inf,
    "-infinity": -math.inf,
}
_NOTHING: Final = frozenset({"", "null", "none", "n/a", "na"})


class CellError(ValueError):
    """A cell holds what its column cannot; the text says what, in one line."""


def number_of(value: object) -> float | None:
    """Return a number, None for an empty cell; NaN and infinities by name are numbers.

    Raises
    ------
    CellError
        For anything else.
    """
    if value is None or type(value) is float:
        return value
    if isinstance(value, str):
        return _number_of_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CellError(f"is {_shown(value)}, no number")
    try:
        return float(value)
    except OverflowError:
        raise CellError("is a number too large for a float") from None


def _number_of_text(text: str) -> float | None:
    # float() also takes 1_000 and digits of other scripts, which no tool writes on purpose
    if len(text) <= 100 and text.isascii() and "_" not in text:
        try:
            return float(text)
        except ValueError:
            pass
    word = text.strip().lower()
    if word in _NOTHING:
        return None
    if word in _WORDS:
        return _WORDS[word]
    raise CellError(f"is {_shown(text)}, no number")


def step_of(value: object, *, text: bool) -> int | None:
    """Return a step, None for an empty cell.

    Parameters
    ----------
    value
        What the log holds.
    text
        Whether every cell of the log is text, so that ``"7"`` is the number 7. A whole number with a point, ``7.0``,
        is one: tables write it where a column has holes.

    Raises
    ------
    CellError
        For anything that is not a whole number from 0 to 2^63-1.
    """
    if type(value) is int:
        step = value
    elif value is None or (text and isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    elif type(value) is float or (text and isinstance(value, str)):
        step = _whole(value)
    else:
        raise CellError(f"is {_shown(value)}, no step number")
    if not 0 <= step <= _LARGEST_STEP:
        raise CellError(f"is {_shown(value)}; a step is a whole number from 0 to 2^63-1")
    return step


def _whole(value: str | float) -> int:
    if isinstance(value, str) and value.isascii() and len(value) <= 100:
        digits = value.strip()
        if digits.isdigit():
            return int(digits)
    try:
        number = number_of(value)
    except CellError:
        number = None
    if number is None or not number.is_integer():
        raise CellError(f"is {_shown(value)}, no whole number")
    return int(number)


def flag_of(value: object) -> bool | None:
    """Return whether a step was skipped, None for an empty cell.

    Raises
    ------
    CellError
        For anything but true, false, 0 and 1.
    """
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _NOTHING:
        return None
    if word in ("true", "1", "1.0"):
        return True
    if word in ("false", "0", "0.0"):
        return False
    raise CellError(f"is {_shown(value)}, not true or false")


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
    return text if len(text) <= 44 else f"{text[:40]}..."
