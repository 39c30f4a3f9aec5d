"""Whether a tensor holds what the notes of all ranks allow: bounds that hold for any order of additions."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard.numerics.error_bounds.judgement import SECOND_ORDER, UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.error_bounds.summation_bounds import growth_factor
from numguard.numerics.formats import format_of
from numguard.ranks.reduction_records import Plan, blocks_in, sampled_elements, samples_in, values_of_blocks
from numguard.shadow.comparison import Comparison
from numguard.shadow.verdict import Verdict, evaluate

_SHADOW: Final = 2.0**-53
_RATIO, _INDEX = Verdict._fields.index("worst_ratio"), Verdict._fields.index("worst_index")


class Judged(NamedTuple):
    """The verdict on some numbers as :func:`~numguard.shadow.verdict.evaluate` gives it, and all ranks' inputs."""

    verdict: Tensor
    inputs_of_worst: Tensor

    @property
    def is_wrong(self) -> Tensor:
        """Whether a number lies outside its bound, on the device."""
        return ~(self.verdict[_RATIO] <= 1.0)


def growth_over_ranks(operation: str, num_ranks: int, dtype: torch.dtype) -> float:
    """Return g such that a reduced element is within ``g`` times the sum of magnitudes, before output rounding.

    Parameters
    ----------
    operation
        ``"SUM"`` or ``"AVG"``.
    num_ranks
        R.
    dtype
        Of the tensor: partial sums may be rounded to it on every hop.

    Notes
    -----
    ``(R - 1) u`` for any order of additions (Higham, ASNA 2nd ed., section 4.2; without restriction on R: Jeannerod,
    Rump, SIAM J. Matrix Anal. Appl. 34, 2013). A mean has two roundings more, for it may be taken by multiplying
    every term by a rounded ``1/R``. That 16-bit hops are added in float32 and rounded twice adds a share of
    ``2**-13`` at most, which ``SECOND_ORDER`` in equation (1) covers.
    """
    unit = UNIT_ROUNDOFF[dtype]
    if operation == "AVG":
        return float(math.expm1((num_ranks + 1) * math.log1p(unit)))
    return float(growth_factor(num_ranks - 1, unit, num_ranks))


def underflow_over_ranks(num_ranks: int, dtype: torch.dtype) -> float:
    """Return what one element may lose to underflow, absolute: on every hop, and where it is noted in float64.

    Sums of subnormal numbers are exact where those are kept. In float32, bfloat16 and float64 they may be flushed to
    zero, on every hop and in the notes; in float16 they are kept, and only a scaled term is rounded among them.
    """
    entry = format_of(dtype)
    if dtype == torch.float16:
        return num_ranks * entry.smallest_subnormal
    return 2 * (num_ranks + 1) * entry.smallest_normal


def judge_samples(tensor: Tensor, records: Tensor, plan: Plan) -> Judged:
    """Judge the sampled elements of a reduced tensor, each by itself.

    Elements that a NaN or Inf went into, or whose partial sums may overflow, are indeterminate.
    """
    inputs = samples_in(records, plan)
    computed = sampled_elements(tensor, plan)
    if plan.operation in ("MIN", "MAX"):
        comparison = _exactly(computed, inputs, plan)
    else:
        absolute = inputs.abs().sum(0)
        bound = _bound(absolute, absolute, 1, plan, len(records))
        comparison = Comparison(
            output="result",
            computed=computed,
            exact=_reduced(inputs, plan),
            strict=bound,
            shadow_error=growth_factor(len(records) - 1, _SHADOW) * absolute / _share(plan, len(records)),
        )
    return _judged(comparison, inputs)


def judge_blocks(tensor: Tensor, records: Tensor, plan: Plan) -> Judged:
    """Judge the sum of every block of a reduced tensor by the sum of its elements' bounds; extrema exactly."""
    notes, found = blocks_in(records, plan), values_of_blocks(tensor, plan)
    if plan.operation in ("MIN", "MAX"):
        return _judged(_exactly(found, notes.value, plan), notes.value)
    num_ranks, unit = len(records), UNIT_ROUNDOFF[plan.dtype]
    own_error = growth_factor(plan.height + num_ranks, _SHADOW)
    absolute = notes.absolute.sum(0) * (1.0 + 2.0 * own_error)
    elements = _bound(absolute, notes.largest.sum(0), plan.width, plan, num_ranks)
    magnitude = absolute / _share(plan, num_ranks)
    # Every element is rounded to the dtype: equation (1), summed over the block.
    rounded = SECOND_ORDER * elements * (1.0 + unit) + unit * magnitude + plan.width * smallest_rounding(plan.dtype)
    comparison = Comparison(
        output="block",
        computed=found,
        exact=_reduced(notes.value, plan),
        strict=rounded,
        shadow_error=own_error * (2.0 * magnitude + rounded),  # of the notes, and of the sums of the result
    )
    return _judged(comparison, notes.value)


def _reduced(inputs: Tensor, plan: Plan) -> Tensor:
    return inputs.sum(0) / _share(plan, len(inputs))


def _share(plan: Plan, num_ranks: int) -> int:
    return num_ranks if plan.operation == "AVG" else 1


def _bound(absolute: Tensor, largest: Tensor, num_elements: int, plan: Plan, num_ranks: int) -> Tensor:
    """Return the bound on the sum of some elements before output rounding; Inf where a partial sum may overflow."""
    growth = growth_over_ranks(plan.operation, num_ranks, plan.dtype)
    bound = growth * absolute / _share(plan, num_ranks) + num_elements * underflow_over_ranks(num_ranks, plan.dtype)
    fits = largest * (1.0 + 2.0 * growth) < torch.finfo(plan.dtype).max  # NaN compares False
    return torch.where(fits, bound, torch.inf)


def _exactly(computed: Tensor, inputs: Tensor, plan: Plan) -> Comparison:
    exact = inputs.amin(0) if plan.operation == "MIN" else inputs.amax(0)
    return Comparison(output="result", computed=computed, exact=exact, strict=0.0, rounds_output=False)


def _judged(comparison: Comparison, inputs: Tensor) -> Judged:
    verdict = evaluate(comparison)
    worst = verdict[_INDEX].to(torch.int64).reshape(1)
    return Judged(verdict, inputs.index_select(1, worst).reshape(-1))


def exact_again(inputs: Sequence[float], operation: str) -> float:
    """Return what the inputs of all ranks reduce to, along a route of its own: without an intermediate rounding."""
    if operation in ("MIN", "MAX"):
        return min(inputs) if operation == "MIN" else max(inputs)
    return math.fsum(inputs) / (len(inputs) if operation == "AVG" else 1)


def classes_of(values: Tensor) -> Tensor:
    """Return for every rank the first rank that has the same value, ``[ranks]``, as float64."""
    return (values.unsqueeze(0) == values.unsqueeze(1)).to(torch.int8).argmax(1).to(torch.float64)


def who_differs(classes: Sequence[float], ranks: Sequence[int]) -> str:
    """Return which ranks differ from the others: the minority, or that nobody can tell.

    Parameters
    ----------
    classes
        As :func:`classes_of` gives them.
    ranks
        Global numbers of the ranks.
    """
    (common, most), *others = Counter(classes).most_common()
    if any(count == most for _, count in others):
        return f"{named_ranks(ranks)} differ, and their number does not tell which of them is right"
    minority = [rank for rank, value in zip(ranks, classes, strict=True) if value != common]
    majority = [rank for rank, value in zip(ranks, classes, strict=True) if value == common]
    return f"{named_ranks(minority)} differ{'s' if len(minority) == 1 else ''} from {named_ranks(majority)}"


def named_ranks(ranks: Sequence[int]) -> str:
    """Return some ranks in words: the first eight of them by their numbers."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = ", ".join(map(str, ranks[:8]))
    return f"ranks {shown}{f' and {len(ranks) - 8} more' if len(ranks) > 8 else ''}"
