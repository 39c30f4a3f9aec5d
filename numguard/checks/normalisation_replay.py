"""Layer norm's 16-bit dgamma and dbeta added again in the order of the CPU kernel and compared bit for bit.

Their bound exceeds the gradients from a few dozen rows on, so it would hide a dropped block.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.normalised_rows import Columns, Layout, columns_of
from numguard.checks.observed_order import fused_sum, row_totals
from numguard.checks.repeated_sums import accepted_beside
from numguard.numerics.error_bounds.exponential_bounds import storage_of
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, Comparison

REPLAY_STEP_COST: Final = 6000.0  # one step of a replay takes as long as so many multiply-adds
_REPLAY_ELEMENTS: Final = 1 << 18  # terms that one replay may hold

aten = torch.ops.aten


def _replayed(columns: Columns, num_threads: int) -> tuple[Tensor, Tensor]:
    """Return dgamma and dbeta in float32 as the CPU kernel adds them; NaN where the replay is in doubt."""
    assert columns.mean is not None  # only layer norm is replayed
    rstd = columns.rstd.float()
    shift = (-rstd * columns.mean.float()).double()
    xhat, doubtful = fused_sum(rstd.double() * columns.x.double(), shift)
    dy = columns.dy.double()
    sums = row_totals(torch.cat([dy * xhat.double(), dy], dim=1), columns.dy.dtype, num_threads)
    grad_weight, grad_bias = sums.chunk(2)
    return torch.where(doubtful.any(0), torch.nan, grad_weight), grad_bias


@lru_cache(maxsize=256)
def replays(dtype: torch.dtype, parameter: torch.dtype, num_threads: int, num_rows: int, length: int) -> bool:
    """Return whether this build's CPU kernel adds rows in the order of the replay, tried once on private data."""
    random = np.random.default_rng(21)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape)).float()

    dy, x = normal(num_rows, length).to(dtype), (2.0 * normal(num_rows, length) + 1.0).to(dtype)
    mean, rstd = (normal(num_rows, 1).to(parameter), (normal(num_rows, 1).abs() + 0.5).to(parameter))
    weight = torch.ones(length, dtype=parameter)
    _, *results = aten.native_layer_norm_backward(dy, x, [length], mean, rstd, weight, weight, [False, True, True])
    expected = _replayed(Columns((), dy, x, mean, rstd), num_threads)
    return all(
        np.array_equal(value.to(parameter).float().numpy(), result.float().numpy())
        for value, result in zip(expected, results, strict=True)
    )


def replay(
    call: OpCall, layout: Layout, probe: Probe, bounded: Callable[[Columns], Sequence[Compared]]
) -> Sequence[Comparison]:
    """Compare dgamma and dbeta bit for bit where they are summed in 16 bits and the order is known.

    Parameters
    ----------
    bounded
        Returns the comparisons of dgamma and dbeta with their bounds on some columns; asked only where a result
        differs from the replay.
    """
    dtype, rows, threads = call["input"].dtype, layout.num_rows, torch.get_num_threads()
    steps = -(-rows // threads)
    if call["input"].device.type != "cpu" or storage_of(dtype) is None or not rows:
        return ()
    if steps * REPLAY_STEP_COST > probe.limit or rows > _REPLAY_ELEMENTS:
        return ()
    # The same division of rows among threads and the same tail of the vector loop, on fewer rows and columns.
    few_rows = rows if rows <= 4 * threads else 3 * threads + rows % threads
    few_columns = layout.length if layout.length <= 64 else 64 + layout.length % 64
    if not replays(dtype, call["rstd"].dtype, threads, few_rows, few_columns):
        return ()
    narrower = replace(probe, limit=min(probe.limit, _REPLAY_ELEMENTS))
    columns = columns_of(call, layout, narrower, 1.0)
    comparisons, beside = [], None
    names, results = ("grad_weight", "grad_bias"), call.output[1:]
    for name, result, value in zip(names, results, _replayed(columns, threads), strict=True):
        if result is None:
            continue
        computed, exact = result.detach()[columns.picked].reshape(-1), value.to(result.dtype).double()
        if not np.array_equal(computed.double().numpy(), exact.numpy()):
            beside = beside or {comparison.output: comparison for comparison in bounded(columns)}
            exact = accepted_beside(beside[name], computed, exact)
        comparisons.append(
            Comparison(
                output=f"{name} (replayed)",
                computed=computed,
                exact=exact,
                strict=0.0,
                model="calibrated",
                rounds_output=False,
            )
        )
    return comparisons
