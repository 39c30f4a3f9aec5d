"""Calls of sorts and selections that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch

from numguard.checks.check import Example, Examples
from numguard.checks.extremum_examples import call_of, next_place
from numguard.checks.planted_faults import at, flipped_bit

aten = torch.ops.aten


def _swapped(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the first two results of each row in the other order, with their indices."""
    return tuple(torch.cat([part[..., 1:2], part[..., :1], part[..., 2:]], dim=-1) for part in output)


def _lost(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the second result of each row twice, with its index: the first is lost."""
    return tuple(torch.cat([part[..., 1:2], part[..., 1:]], dim=-1) for part in output)


def _runner_up(output: Any, args: tuple[Any, ...]) -> Any:
    """Return a selection without the best: it begins with the second."""
    return tuple(part[..., 1:] for part in aten.topk(args[0], args[1] + 1))


def _next_rank(output: Any, args: tuple[Any, ...]) -> Any:
    return aten.kthvalue(args[0], args[1] + 1, args[2])


def _stable(dtype: torch.dtype, generator: torch.Generator) -> Any:
    _, args, _ = call_of(aten.sort.stable, tied=True)(dtype, generator)
    return aten.sort.stable, args, {"stable": True, "dim": 2}


def _reversed_ties(output: Any, args: tuple[Any, ...]) -> Any:
    values, indices = (part.flip(2) for part in aten.sort.stable(args[0].flip(2), stable=True, dim=2, descending=True))
    return values, indices


EXAMPLES: Final = {
    "sort": Examples(
        silent=(
            Example(name="rows", call=call_of(aten.sort.default, 2, False)),
            Example(name="descending", call=call_of(aten.sort.default, 1, True)),
            Example(name="nan and inf", call=call_of(aten.sort.default, 2, True, poisoned=True)),
            Example(name="stable", call=_stable),
            Example(name="integers", call=call_of(aten.sort.default, 2, False), dtypes=(torch.int32, torch.uint8)),
        ),
        fires=(
            Example(name="swapped", call=call_of(aten.sort.default, 2, False), corrupt=_swapped),
            Example(name="lost element", call=call_of(aten.sort.default, 2, False), corrupt=_lost),
            Example(name="flipped bit", call=call_of(aten.sort.default, 2, False), corrupt=at(0, flipped_bit)),
            Example(name="ties reversed", call=_stable, corrupt=_reversed_ties),
        ),
    ),
    "topk": Examples(
        silent=(
            Example(name="four", call=call_of(aten.topk.default, 4)),
            Example(name="one", call=call_of(aten.topk.default, 1, 1)),
            Example(name="smallest", call=call_of(aten.topk.default, 3, 1, False)),
            Example(name="unsorted", call=call_of(aten.topk.default, 3, 2, True, False)),
            Example(name="nan and inf", call=call_of(aten.topk.default, 4, poisoned=True)),
            Example(name="ties", call=call_of(aten.topk.default, 4, tied=True)),
        ),
        fires=(
            Example(name="not the best", call=call_of(aten.topk.default, 4), corrupt=_runner_up),
            Example(name="swapped", call=call_of(aten.topk.default, 4), corrupt=_swapped),
            Example(name="lost element", call=call_of(aten.topk.default, 4), corrupt=_lost),
            Example(name="flipped bit", call=call_of(aten.topk.default, 4), corrupt=at(0, flipped_bit)),
        ),
    ),
    "kthvalue": Examples(
        silent=(
            Example(name="third", call=call_of(aten.kthvalue.default, 3, 2)),
            Example(name="nan and inf", call=call_of(aten.kthvalue.default, 16, 2, poisoned=True)),
            Example(name="ties", call=call_of(aten.kthvalue.default, 3, 1, True, tied=True)),
        ),
        fires=(
            Example(name="next rank", call=call_of(aten.kthvalue.default, 3, 2), corrupt=_next_rank),
            Example(name="flipped bit", call=call_of(aten.kthvalue.default, 3, 2), corrupt=at(0, flipped_bit)),
            Example(name="next place", call=call_of(aten.kthvalue.default, 3, 2), corrupt=next_place),
        ),
    ),
    "median": Examples(
        silent=(
            Example(name="everything", call=call_of(aten.median.default)),
            Example(name="rows", call=call_of(aten.median.dim, 2)),
            Example(name="nan", call=call_of(aten.median.dim, 2, poisoned=True)),
            Example(name="nan skipped", call=call_of(aten.nanmedian.dim, 1, poisoned=True)),
            Example(name="everything with nan skipped", call=call_of(aten.nanmedian.default, poisoned=True)),
        ),
        fires=(
            Example(name="flipped bit", call=call_of(aten.median.dim, 2), corrupt=at(0, flipped_bit)),
            Example(name="another element", call=call_of(aten.median.default), corrupt=lambda o, a: a[0].max()),
            Example(
                name="hidden nan",
                call=call_of(aten.median.dim, 2, poisoned=True),
                corrupt=at(0, lambda part, args: part.nan_to_num(0.0)),
            ),
        ),
    ),
    "cummax": Examples(
        silent=(
            Example(name="largest", call=call_of(aten.cummax.default, 2)),
            Example(name="smallest", call=call_of(aten.cummin.default, 0)),
            Example(name="nan and inf", call=call_of(aten.cummax.default, 2, poisoned=True)),
            Example(name="ties", call=call_of(aten.cummin.default, 1, tied=True)),
        ),
        fires=(
            Example(name="flipped bit", call=call_of(aten.cummax.default, 2), corrupt=at(0, flipped_bit)),
            Example(
                name="forgotten maximum",
                call=call_of(aten.cummax.default, 2),
                corrupt=lambda output, args: (args[0].clone(), torch.arange(17).expand(6, 5, 17).clone()),
            ),
        ),
    ),
}
