"""The verdict on one comparison: a short float64 vector that stays on the device until somebody may read it."""

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.backends.verdict import native_verdict
from numguard.numerics.error_bounds.judgement import (
    SECOND_ORDER,
    SHADOW_ROUNDINGS,
    UNIT_ROUNDOFF,
    judge,
    smallest_rounding,
)
from numguard.shadow.comparison import Compared, Comparison, JudgedComparison


class Verdict(NamedTuple):
    """The numbers of one comparison, in the order in which the device writes them.

    ``num_overflowed`` counts representable results that are not finite although no bound could be given.
    ``worst_*`` describe the element with the largest permissive ratio; ``mean_ratio`` is the mean of the signed
    strict ratios (a bias far below the bound shows there first).
    """

    num_elements: float
    num_indeterminate: float
    num_wrong: float
    num_inaccurate: float
    num_overflowed: float
    worst_ratio: float
    worst_strict_ratio: float
    worst_index: float
    worst_computed: float
    worst_exact: float
    worst_bound: float
    worst_strict_bound: float
    mean_ratio: float

    @property
    def wrong(self) -> bool:
        """Outside the bound of any correct implementation."""
        return not self.worst_ratio <= 1.0

    @property
    def inaccurate(self) -> bool:
        """Outside the strict bound only."""
        return not self.worst_strict_ratio <= 1.0 and not self.wrong


WIDTH = len(Verdict._fields)


def evaluate(comparison: Compared) -> Tensor:
    """Return the verdict as a float64 vector of :data:`WIDTH` numbers on the device of the comparison.

    Nothing synchronises with the host. An empty comparison gives a vector of zeros.
    """
    computed = comparison.computed.detach().reshape(-1)
    if computed.numel() == 0:
        return torch.zeros(WIDTH, dtype=torch.float64, device=computed.device)
    shape = comparison.computed.shape

    def flat(value: Tensor | float) -> Tensor | float:
        if not isinstance(value, Tensor):
            return value
        return value.reshape(()) if value.numel() == 1 else value.expand(shape).reshape(-1)

    exact = comparison.exact.expand(shape).reshape(-1)
    arguments = {
        "shadow_error": flat(comparison.shadow_error),
        "rounds_output": comparison.rounds_output,
        "propagates_nonfinite": comparison.propagates_nonfinite,
    }
    strict = judge(computed, exact, flat(comparison.strict), **arguments)  # type: ignore[arg-type]
    lenient = strict
    if comparison.permissive is not None:
        lenient = judge(computed, exact, flat(comparison.permissive), **arguments)  # type: ignore[arg-type]
    # Judged itself: a wrong index must not leave the memory.
    worst, worst_strict = (
        ratio.argmax().clamp(0, ratio.numel() - 1).reshape(1) for ratio in (lenient.ratio, strict.ratio)
    )
    signed = torch.where(torch.isfinite(strict.ratio), strict.ratio, 0.0) * torch.sign(computed.double() - exact)
    signed = torch.nan_to_num(signed)
    ones = torch.full((computed.numel(),), 1.0 / computed.numel(), dtype=torch.float64, device=computed.device)
    # The result is representable and not there: an intermediate left its format.
    representable = torch.isfinite(exact) & (exact.abs() < _largest(computed.dtype))
    overflowed = lenient.indeterminate & representable & ~torch.isfinite(computed)
    return torch.stack(
        [
            torch.full((), float(computed.numel()), dtype=torch.float64, device=computed.device),
            torch.count_nonzero(lenient.indeterminate).double(),
            torch.count_nonzero(lenient.ratio > 1.0).double(),
            torch.count_nonzero(strict.ratio > 1.0).double(),
            torch.count_nonzero(overflowed).double(),
            lenient.ratio.take(worst)[0],
            strict.ratio.take(worst_strict)[0],
            worst.double()[0],
            computed.take(worst)[0].double(),
            exact.take(worst)[0],
            lenient.bound.take(worst)[0],
            strict.bound.take(worst)[0],
            torch.dot(signed, ones),
        ]
    )


def evaluate_on_host(comparison: Compared) -> Verdict:
    """Return what :func:`evaluate` returns, for tensors in host memory, in a third of the passes over them.

    In a single pass where the native twin is there.
    """
    if isinstance(comparison, JudgedComparison):
        return Verdict._make(comparison.verdict)
    dtype = comparison.computed.dtype
    if dtype.is_floating_point and comparison.computed.numel():
        numbers = native_verdict(
            comparison.computed.detach(),
            comparison.exact,
            comparison.strict,
            comparison.permissive,
            comparison.shadow_error,
            unit_roundoff=UNIT_ROUNDOFF[dtype],
            smallest_rounding=_smallest_rounding(dtype),
            largest=_largest(dtype),
            rounds_output=comparison.rounds_output,
            propagates_nonfinite=comparison.propagates_nonfinite,
        )
        if numbers is not None:
            return Verdict._make(numbers)
    return _evaluate_by_numpy(comparison, dtype)


def _evaluate_by_numpy(comparison: Comparison, dtype: torch.dtype) -> Verdict:
    computed = comparison.computed.detach().to(torch.float64).numpy().reshape(-1)
    size = computed.size
    if size == 0:
        return Verdict._make([0.0] * WIDTH)
    shape = comparison.computed.shape

    def flat(value: Tensor | float) -> Any:
        if not isinstance(value, Tensor):
            return value
        array = value.numpy()
        return array.reshape(()) if array.size == 1 else np.broadcast_to(array, shape).reshape(-1)

    exact = np.broadcast_to(comparison.exact.numpy(), shape).reshape(-1)
    with np.errstate(all="ignore"):
        difference = np.abs(computed - exact)
        judged = partial(_judge_on_host, comparison, dtype, computed, exact, difference, flat(comparison.shadow_error))
        strict_ratio, strict_bound, indeterminate = judged(flat(comparison.strict))
        ratio, bound = strict_ratio, strict_bound
        if comparison.permissive is not None:
            ratio, bound, indeterminate = judged(flat(comparison.permissive))
        worst = int(ratio.argmax())
        overflowed = 0
        if indeterminate.any():
            representable = np.isfinite(exact) & (np.abs(exact) < _largest(dtype))
            overflowed = int(np.count_nonzero(indeterminate & representable & ~np.isfinite(computed)))
        signed = np.where(computed >= exact, strict_ratio, -strict_ratio)
        mean = float(np.where(np.isfinite(signed), signed, 0.0).mean())
    numbers = (
        size,
        int(np.count_nonzero(indeterminate)),
        int(np.count_nonzero(ratio > 1.0)),
        int(np.count_nonzero(strict_ratio > 1.0)),
        overflowed,
        ratio[worst],
        strict_ratio.max(),
        worst,
        computed[worst],
        exact[worst],
        bound[worst] if bound.ndim else bound,
        strict_bound[worst] if strict_bound.ndim else strict_bound,
        mean,
    )
    return Verdict._make(map(float, numbers))


_smallest_rounding = cache(smallest_rounding)


@cache
def _largest(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).max) if dtype.is_floating_point else float("inf")


def _judge_on_host(
    comparison: Comparison,
    dtype: torch.dtype,
    computed: Any,
    exact: Any,
    difference: Any,
    shadow_error: Any,
    bound: Any,
) -> tuple[Any, Any, Any]:
    """Return ratio, bound and indeterminate as :func:`~numguard.numerics.error_bounds.judgement.judge` does."""
    if comparison.rounds_output:
        magnitude = np.abs(exact)
        unit = UNIT_ROUNDOFF[dtype]
        threshold = magnitude * (unit + (1.0 + unit) * SHADOW_ROUNDINGS)
        threshold += (1.0 + unit) * (SECOND_ORDER * bound + shadow_error) + smallest_rounding(dtype)
        magnitude += threshold
        indeterminate = ~(magnitude < torch.finfo(dtype).max)
        ratio = np.atleast_1d(difference / threshold)
        ratio[np.isnan(difference)] = np.inf
    else:
        threshold = np.zeros_like(exact)
        indeterminate = np.isnan(exact)
        ratio = np.where(computed == exact, 0.0, np.inf)  # a selected infinity must be the same infinity
    if comparison.propagates_nonfinite:
        lost = ~np.isfinite(exact) & np.isfinite(computed)
        indeterminate &= ~lost
        ratio[lost] = np.inf
    ratio[indeterminate] = 0.0
    return ratio, threshold, indeterminate


def read(vector: Tensor) -> Verdict:
    """Return the verdict of a vector that may be read now (this synchronises on an accelerator)."""
    return Verdict(*vector.tolist())
