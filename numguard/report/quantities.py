"""Numbers as people read them."""

import math


def number(value: float | None) -> str:
    """Return a number with four significant digits; NaN and infinities by name; a dash for None."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, int) and abs(value) < 10**15:
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Return a share in percent with three significant digits."""
    if share is None or not math.isfinite(share):
        return number(share)
    return f"{100 * share:.3g} %"


def seconds(value: float | None) -> str:
    """Return a duration in its natural unit."""
    if value is None or not math.isfinite(value) or value < 0:
        return number(value)
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s" if value >= 1.0 else f"{1e3 * value:.3g} ms"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, as ``1 rank`` or ``2 ranks``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(items: list[str] | tuple[str, ...], most: int = 6) -> str:
    """Return items in one line, the ones beyond ``most`` as a number."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"
