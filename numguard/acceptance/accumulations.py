"""How this build forms its sums, operator by operator: a page of the audit."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from numguard.acceptance.trials import DTYPES
from numguard.shadow.accumulation import Accumulation, Total, observe_accumulation

NUM_TERMS: Final = 70


def _gradient(function: Callable[[Tensor], Tensor], like: Tensor, back: Tensor) -> Tensor:
    leaf = like.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(function(leaf), leaf, back)
    return grad


def _slot(x: Tensor) -> Tensor:
    return torch.zeros(1, dtype=x.dtype)


def _indices(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def _column(x: Tensor) -> Tensor:
    return torch.stack([x, x], 1).sum(0)[0]


#: Sums of a vector by the operators that add.
TOTALS: Final[Mapping[str, Total]] = {
    "sum": torch.sum,
    "sum over dim 0": _column,
    "sum of every second element": lambda x: torch.stack([x, x], 1)[:, 0].sum(),
    "nansum": torch.nansum,
    "cumsum, last": lambda x: x.cumsum(0)[-1],
    "dot": lambda x: torch.dot(x, torch.ones_like(x)),
    "mm": lambda x: x[None] @ torch.ones(len(x), 1, dtype=x.dtype),
    "mv": lambda x: torch.mv(x[None], torch.ones_like(x)),
    "index_add": lambda x: _slot(x).index_add(0, _indices(x), x),
    "scatter_add": lambda x: _slot(x).scatter_add(0, _indices(x), x),
    "index_put(accumulate)": lambda x: _slot(x).index_put((_indices(x),), x, accumulate=True),
    "segment_reduce": lambda x: torch.segment_reduce(x, "sum", lengths=torch.tensor([len(x)])),
    "bincount": lambda x: torch.bincount(_indices(x), x),
    "sparse coalesce": lambda x: (
        torch.sparse_coo_tensor(_indices(x)[None], x, (1,), check_invariants=True).coalesce().values()
    ),
    "embedding backward": lambda x: _gradient(lambda w: F.embedding(_indices(x), w), _slot(x)[None], x[:, None]),
    "index backward": lambda x: _gradient(lambda w: w[_indices(x)], _slot(x), x),
    "linear bias backward": lambda x: _gradient(
        lambda b: F.linear(torch.zeros(len(x), 1, dtype=x.dtype), torch.zeros(1, 1, dtype=x.dtype), b),
        _slot(x),
        x[:, None],
    ),
    "layer_norm bias backward": lambda x: _gradient(
        lambda b: F.layer_norm(torch.zeros(len(x), 1, dtype=x.dtype), (1,), _slot(x), b), _slot(x), x[:, None]
    ),
    "expand backward": lambda x: _gradient(lambda w: w.expand(len(x)), _slot(x), x),
}


@cache
def observed(name: str, dtype: torch.dtype) -> Accumulation | None:
    """Return how an operator of :data:`TOTALS` adds in this build, or None where it does not take the dtype."""
    try:
        return observe_accumulation(TOTALS[name], NUM_TERMS, dtype)
    except (RuntimeError, NotImplementedError):
        return None


def sentence(name: str, dtype_name: str) -> str:
    """Return how an operator adds in a sentence; empty where it does not take the dtype."""
    dtype = DTYPES[dtype_name]
    seen = observed(name, dtype)
    if seen is None:
        return ""
    stagnates = ": it stagnates" if dtype.itemsize < 4 and seen.precision <= 11 else ""
    return f"{name} of {dtype_name} adds {seen.num_terms} terms {seen.order}, in {seen.accumulator}{stagnates}"
