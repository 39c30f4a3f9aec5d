"""Statistics of a tensor from one pass over it: sum, sum of magnitudes, largest magnitude, counts."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.backends.kernel_modules import kernel_module
from numguard.backends.selection import backend_for, native_library_for
from numguard.errors import UsageError

CORE: Final = ("sum", "absolute_sum", "maximum")
COUNTS: Final = ("num_nan", "num_inf", "num_zero", "num_subnormal")
NEEDS: Final = (*CORE, "minimum_nonzero", *COUNTS, "exponents")
_CHUNK: Final = 1 << 20  # elements in float64 at once
_HEIGHT: Final = 256.0  # additions that a term passes through in NumPy's pairwise sum of a chunk, at most


class Statistics(NamedTuple):
    """What was asked for; None for the rest. Tensors have the shape of the reduction.

    Attributes
    ----------
    sum, sum_low
        float64, the sum as an unevaluated pair.
    absolute_sum, maximum
        float64, sum of magnitudes and largest magnitude, NaN where an element is.
    minimum_nonzero
        float64, the smallest magnitude that is not zero; infinite where there is none.
    num_nan, num_inf, num_zero, num_subnormal
        int64; subnormal numbers of the tensor's own format.
    exponents
        int64, 256 bins: exponent fields of the values as float32.
    relative_error
        The f of ``|sum + sum_low - exact| <= f * absolute_sum``.
    """

    sum: Tensor | None = None
    sum_low: Tensor | None = None
    absolute_sum: Tensor | None = None
    maximum: Tensor | None = None
    minimum_nonzero: Tensor | None = None
    num_nan: Tensor | None = None
    num_inf: Tensor | None = None
    num_zero: Tensor | None = None
    num_subnormal: Tensor | None = None
    exponents: Tensor | None = None
    relative_error: float = 0.0


def tensor_statistics(
    x: Tensor, *, dim: int | Sequence[int] | None = None, needs: Sequence[str] = CORE, precise: bool = False
) -> Statistics:
    """Return statistics of a tensor, or of its slices along dimensions; only what is needed is computed.

    Parameters
    ----------
    x
        Any real floating-point dtype, shape and strides.
    dim
        Dimensions that disappear; all of them by default.
    needs
        Names out of :data:`NEEDS`. Counts, the smallest magnitude and exponents are of the whole tensor on the CPU.
    precise
        Add every element without error (TwoSum) rather than in blocks.

    Raises
    ------
    UsageError
        For an unknown need or dtype, for counts along a dimension on the CPU, and where the forced backend cannot be.
    """
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown or not x.dtype.is_floating_point:
        what = f"no statistic is named {unknown[0]!r}" if unknown else f"{x.dtype} is no real floating-point dtype"
        raise UsageError(f"tensor_statistics: {what}; ask for some of {', '.join(NEEDS)} of a floating-point tensor")
    backend = backend_for("statistics", x.device)
    x = x.detach().resolve_neg()
    if backend == "triton":
        return Statistics(*kernel_module("statistics").tensor_statistics(x, dim=dim, needs=needs, precise=precise))
    if dim is not None and set(needs) - set(CORE):
        raise UsageError(f"counts and exponents are of the whole tensor: leave dim={dim} out")
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    reduced = sorted({axis % max(1, x.dim()) for axis in dims})
    kept = [axis for axis in range(x.dim()) if axis not in reduced]
    view = x.permute(*kept, *reduced) if x.dim() else x.reshape(1)
    library = native_library_for("statistics", x)
    if backend == "native" and library is not None:
        return _by_twin(library, x, view, len(kept), needs, precise)
    return _by_numpy(x.to("cpu"), view.to("cpu"), len(kept), needs)


def _by_twin(library: Any, x: Tensor, view: Tensor, num_kept: int, needs: Sequence[str], precise: bool) -> Statistics:
    import numguard_kernels.native as native

    mode = native.Mode.TWO_FLOAT if precise else native.Mode.BLOCKED
    threads = torch.get_num_threads()
    if num_kept == 0 and x.is_contiguous():
        totals = native.total_of(library, x, mode, threads)
        rows = native.RowTotals(*(torch.tensor(number, dtype=torch.float64) for number in totals))
    else:
        rows = native.row_totals_of(library, view, num_kept, mode, threads)
    num_terms = view.numel() // max(1, rows.high.numel())
    error = native.sum_error_bound(mode, num_terms, 1.0, 1.0, is_double=x.dtype == torch.float64)
    found = {"sum": rows.high, "sum_low": rows.low, "absolute_sum": rows.mass, "maximum": rows.largest}
    counted = set(needs) - set(CORE)
    if counted:
        counts = native.counts_of(library, x, with_exponents="exponents" in counted)
        found |= _of_counts(counts[:4], counts.smallest, counts.exponents)
    return _picked(found, needs, error)


def _by_numpy(x: Tensor, view: Tensor, num_kept: int, needs: Sequence[str]) -> Statistics:
    """Add chunk after chunk in float64: a dozen passes over what one read would do, and no kernel of torch's sums."""
    shape = view.shape[:num_kept]
    num_terms = view.numel() // max(1, shape.numel())
    rows = view.reshape(shape.numel(), num_terms)
    out = np.zeros((3, shape.numel()))
    with np.errstate(all="ignore"):
        step = max(1, _CHUNK // max(1, shape.numel()))
        for first in range(0, num_terms, step):
            chunk = rows[:, first : first + step].to(torch.float64).numpy()
            sizes = np.abs(chunk)
            out[0] += np.add.reduce(chunk, axis=1)
            out[1] += np.add.reduce(sizes, axis=1)
            out[2] = np.maximum(out[2], np.maximum.reduce(sizes, axis=1, initial=0.0))
    found = {name: torch.from_numpy(row).reshape(shape) for name, row in zip(CORE, out, strict=True)}
    found["sum_low"] = torch.zeros_like(found["sum"])
    if set(needs) - set(CORE):
        found |= _counted_by_numpy(x)
    height = min(num_terms, step) + -(-num_terms // step) + _HEIGHT if num_terms else 0.0
    return _picked(found, needs, height * 2.0**-53)


def _counted_by_numpy(x: Tensor) -> dict[str, Tensor]:
    smallest_normal = float(torch.finfo(x.dtype).smallest_normal)
    sizes = np.abs(x.reshape(-1).to(torch.float64).numpy())
    counts = (
        np.count_nonzero(np.isnan(sizes)),
        np.count_nonzero(np.isinf(sizes)),
        np.count_nonzero(sizes == 0.0),
        np.count_nonzero((sizes > 0.0) & (sizes < smallest_normal)),
    )
    smallest = float(np.min(np.where(sizes > 0.0, sizes, np.inf), initial=np.inf))
    fields = np.frexp(np.where(np.isfinite(sizes), sizes, 1.0))[1] + 126
    fields = np.clip(np.where(sizes == 0.0, 0, fields), 0, 255)
    fields = np.where(np.isfinite(sizes), fields, 255)
    return _of_counts([int(count) for count in counts], smallest, torch.from_numpy(np.bincount(fields, minlength=256)))


def _of_counts(counts: Sequence[int], smallest: float, exponents: Tensor | None) -> dict[str, Tensor]:
    found = {name: torch.tensor(count) for name, count in zip(COUNTS, counts, strict=True)}
    found["minimum_nonzero"] = torch.tensor(smallest, dtype=torch.float64)
    return found if exponents is None else found | {"exponents": exponents}


def _picked(found: dict[str, Tensor], needs: Sequence[str], error: float) -> Statistics:
    names = {*needs, *(("sum_low",) if "sum" in needs else ())}
    return Statistics(**{name: found[name] for name in names}, relative_error=error)


def native_row_sums(x: Tensor, num_kept: int) -> tuple[Tensor, Tensor] | None:
    """Return sums and sums of magnitudes over all but the first dimensions, added in float64; None without the twin."""
    library = native_library_for("statistics", x)
    if library is None:
        return None
    import numguard_kernels.native as native

    rows = native.row_totals_of(library, x, num_kept, native.Mode.DOUBLE)
    return rows.high + rows.low, rows.mass
