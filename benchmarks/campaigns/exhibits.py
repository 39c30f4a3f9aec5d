"""What the museum shows of one bug."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What one tool sees of one bug.

    Parameters
    ----------
    bug, fix
        Whether it speaks up for the broken play, and for the fixed one.
    cost
        Time of the fixed play under the tool over the time without; NaN where it was too short to tell.
    """

    bug: bool
    fix: bool
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """One reproduced bug.

    Parameters
    ----------
    name
        Of the module.
    marker
        What its reproduction marker says.
    story
        Its docstring.
    finding
        What numguard found, as the test noted it; None where it does not find the bug yet.
    sights
        What other tools see, by name.
    """

    name: str
    marker: dict[str, Any]
    story: str
    finding: dict[str, Any] | None
    sights: dict[str, Sight]
