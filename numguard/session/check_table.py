"""Which overload is checked by what: the table that the mode looks every call up in."""

from collections.abc import Iterable

import torch

from numguard.checks import Check


def overload_of(name: str) -> torch._ops.OpOverload | None:
    """Return the overload of ``aten::sum.dim_IntList``, or None where this build does not have it."""
    namespace, _, rest = name.partition("::")
    op, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), op, None)
    if packet is None:
        return None
    found: torch._ops.OpOverload | None = getattr(packet, overload or "default", None)
    return found


def table_of(checks: Iterable[Check]) -> dict[torch._ops.OpOverload, tuple[Check, ...]]:
    """Return the checks by overload. Overloads that this build does not have are left out."""
    table: dict[torch._ops.OpOverload, tuple[Check, ...]] = {}
    for check in checks:
        for name in check.ops:
            overload = overload_of(name)
            if overload is not None:
                table[overload] = (*table.get(overload, ()), check)
    return table
