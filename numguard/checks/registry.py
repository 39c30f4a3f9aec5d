"""Every check by name and by operator, and the choice among them that a user makes."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from numguard.checks import (
    attention,
    contractions,
    cumulative,
    exponentials,
    foreach_updates,
    fused_optimizers,
    losses,
    normalisation,
    norms,
    pointwise_updates,
    products,
    scatters,
    sums,
)
from numguard.checks.check import Check
from numguard.errors import UsageError

_MODULES: Final = (
    sums,
    cumulative,
    products,
    norms,
    exponentials,
    losses,
    normalisation,
    contractions,
    attention,
    scatters,
    fused_optimizers,
    foreach_updates,
    pointwise_updates,
)


def _by_name(checks: Iterable[Check]) -> dict[str, Check]:
    registry: dict[str, Check] = {}
    for check in checks:
        if check.name in registry:
            raise ValueError(f"two checks are named {check.name!r}; give one of them another name")
        registry[check.name] = check
    return registry


#: Every check by its name.
REGISTRY: Final[Mapping[str, Check]] = MappingProxyType(
    _by_name(check for module in _MODULES for check in module.CHECKS)
)


def checks_for(overload_name: str) -> tuple[Check, ...]:
    """Return the checks of an operator, given as ``aten::sum.dim_IntList``."""
    return tuple(check for check in REGISTRY.values() if overload_name in check.ops)


def _matching(pattern: str, option: str) -> list[Check]:
    try:
        found = [check for name, check in REGISTRY.items() if name == pattern or re.fullmatch(pattern, name)]
    except re.error:
        found = []
    if not found:
        near = difflib.get_close_matches(pattern, REGISTRY, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"{option}= names {pattern!r}, which is no check.{hint} The checks are: {', '.join(sorted(REGISTRY))}"
        )
    return found


def select(checks: Sequence[str] | None, skip: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks that a user wants.

    Parameters
    ----------
    checks
        Names, or regular expressions that match a whole name; None for all.
    skip
        The same, taken away.

    Raises
    ------
    UsageError
        For a name or expression that matches no check; lists the names and the nearest one.
    """
    chosen = list(REGISTRY.values()) if checks is None else []
    for pattern in checks or ():
        chosen += [check for check in _matching(pattern, "checks") if check not in chosen]
    skipped = [check.name for pattern in skip for check in _matching(pattern, "skip")]
    return tuple(check for check in chosen if check.name not in skipped)
