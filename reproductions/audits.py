"""Audits of the installed torch that several reproductions ask for: each runs once."""

from functools import cache

import numguard
from numguard.acceptance import AuditReport
from numguard.acceptance.plan import Level


@cache
def audited(
    family: str,
    *,
    only: str | None = None,
    level: Level = "quick",
    parts: tuple[str, ...] = ("eager",),
    seconds: float = 40.0,
) -> AuditReport:
    """Return the report of ``numguard audit`` on one family, the known defects of this version included.

    Parameters
    ----------
    family, level, parts
        Of :func:`numguard.audit`.
    only
        What a call must contain.
    seconds
        After which nothing new is begun: no trial, and none of the scripts that reproduce what was found.
    """
    return numguard.audit(level=level, families=[family], parts=parts, only=only, known=False, seconds=seconds)
