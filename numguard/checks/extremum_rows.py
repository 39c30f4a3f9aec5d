"""The rows among which an operator selects, with what it claims to have selected."""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, tensors_in
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import PAIRWISE


class Lines(NamedTuple):
    """Some rows ``[rows, n]`` in float64, and results ``[rows, m]``: values in float64, indices in int64."""

    values: Tensor
    results: tuple[Tensor, ...]

    def at(self, indices: Tensor) -> Tensor:
        """Return the elements that indices name; minus infinity for one that is out of range."""
        count = self.values.shape[-1]
        inside = (indices >= 0) & (indices < count)
        found = self.values.gather(-1, indices.clamp(0, max(0, count - 1)))
        return torch.where(inside, found, -torch.inf)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64)


def lines_of(call: OpCall, output: Any, dim: int | None, cost: float, probe: Probe) -> Lines | None:
    """Return the rows along ``dim``, or all elements as one row, that the probe picks; None where there are none.

    Raises
    ------
    NotCovered
        For tensors without known order, and for a row that costs more than a check may.
    """
    source = call["self"].detach()
    results = tuple(tensor.detach() for tensor in tensors_in(output))
    require_numbers(source)
    if not source.numel() or not results[0].numel():
        return None
    if source.dim() == 0:
        source = source.reshape(1)
    if dim is None:
        probe.afford(cost * source.numel())
        flat = _wide(source.reshape(1, -1))
        return Lines(flat, tuple(_typed(result).reshape(1, -1) for result in results))
    source = source.movedim(dim, -1)
    lead = tuple(source.shape[:-1])
    shaped = []
    for result in results:
        if result.dim() == 0:
            result = result.reshape((1,) * max(1, source.dim()))
        elif result.dim() < source.dim():
            result = result.unsqueeze(dim)
        shaped.append(result.movedim(dim, -1))
    if any(tuple(result.shape[:-1]) != lead for result in shaped):
        raise NotCovered("results of another shape than the input's rows")
    picked = sampled_rows(lead, cost * source.shape[-1], probe) if prod(lead) else ()
    count = source.shape[-1]
    rows = _wide(source[picked]).reshape(-1, count)
    return Lines(rows, tuple(_typed(result[picked]).reshape(rows.shape[0], -1) for result in shaped))


def _typed(result: Tensor) -> Tensor:
    return result if result.dtype == torch.int64 else result.to(torch.float64)


def largest(arithmetic: Arithmetic, rows: Tensor) -> Tensor:
    """Return the largest element of each row ``[rows, n]``, NaN where there is one, without an operator of extrema."""
    route = PAIRWISE if "extrema" in arithmetic.families else arithmetic
    return route.maximum(rows, (1,), False)
