"""One file per operator family: is THIS call right? The registry of all of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Final

from numguard.checks import (
    attention,
    bags,
    batch_norm,
    coalescing,
    contractions,
    convolutions,
    cumulative,
    cumulative_products,
    distance_gradients,
    distances,
    exponentials,
    extrema,
    folds,
    foreach_updates,
    fused_optimizers,
    group_norm,
    grouped_products,
    interpolation,
    losses,
    moments,
    normalisation,
    norms,
    order_statistics,
    pointwise_losses,
    pointwise_updates,
    pooling,
    products,
    scatters,
    segments,
    slot_reductions,
    sums,
)
from numguard.errors import UsageError

from .check import Check as Check
from .check import Example as Example
from .check import Probe as Probe

MODULES: Final[tuple[ModuleType, ...]] = (
    sums,
    cumulative,
    cumulative_products,
    products,
    norms,
    exponentials,
    losses,
    pointwise_losses,
    moments,
    normalisation,
    batch_norm,
    group_norm,
    interpolation,
    contractions,
    grouped_products,
    convolutions,
    attention,
    pooling,
    extrema,
    order_statistics,
    distances,
    distance_gradients,
    scatters,
    slot_reductions,
    segments,
    bags,
    coalescing,
    folds,
    fused_optimizers,
    foreach_updates,
    pointwise_updates,
)


def registry_of(checks: Iterable[Check]) -> Mapping[str, Check]:
    """Return checks by name.

    Raises
    ------
    UsageError
        Where two checks bear the same name.
    """
    registry: dict[str, Check] = {}
    for check in checks:
        if check.name in registry:
            raise UsageError(f"two checks are named {check.name!r}; users select checks by name, so rename one")
        registry[check.name] = check
    return MappingProxyType(registry)


#: Every check by name, in the order of :data:`MODULES`.
REGISTRY: Final = registry_of(check for module in MODULES for check in module.CHECKS)


@cache
def checks_for(overload_name: str) -> tuple[Check, ...]:
    """Return the checks of an overload, ``"aten::sum.dim_IntList"``; none for an operator that is not covered."""
    return tuple(check for check in REGISTRY.values() if overload_name in check.ops)


def select(checks: Sequence[str] | None = None, skip: Sequence[str] = ()) -> tuple[Check, ...]:
    """Return the checks that a user asked for.

    Parameters
    ----------
    checks
        Names or regular expressions that match whole names; None for all.
    skip
        The same, for checks to leave out.

    Raises
    ------
    UsageError
        Where an entry matches no check, or is not a regular expression.
    """
    wanted = set(REGISTRY) if checks is None else _named("checks", checks)
    unwanted = _named("skip", skip)
    return tuple(check for name, check in REGISTRY.items() if name in wanted and name not in unwanted)


def _named(argument: str, entries: Sequence[str]) -> set[str]:
    if isinstance(entries, str):
        entries = (entries,)
    return {name for entry in entries for name in _matching(argument, entry)}


def _matching(argument: str, entry: str) -> list[str]:
    if entry in REGISTRY:
        return [entry]
    try:
        found = [name for name in REGISTRY if re.fullmatch(entry, name)]
    except re.error as error:
        raise UsageError(
            f"{argument}= got {entry!r}, which is not a regular expression ({error}); escape it with re.escape"
        ) from None
    if found:
        return found
    close = get_close_matches(entry, REGISTRY, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UsageError(f"{argument}= got {entry!r}, which matches no check{hint} Valid names: {', '.join(REGISTRY)}")
