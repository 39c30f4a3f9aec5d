"""One call of every instrumented function, with torch's own beside it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from numguard import functional

Arguments = Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]


def numbers(dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return a matrix of six rows."""
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _targets(x: Tensor) -> Tensor:
    return torch.arange(6) % 4


#: By name: the instrumented function, torch's, and its arguments made of a matrix.
CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Arguments]] = {
    "sum": (functional.sum, torch.sum, lambda x: ((x,), {"dim": 1, "keepdim": True})),
    "mean": (functional.mean, torch.mean, lambda x: ((x, 0), {})),
    "nansum": (functional.nansum, torch.nansum, lambda x: ((x, 1), {})),
    "prod": (functional.prod, torch.prod, lambda x: ((x, 1), {})),
    "cumsum": (functional.cumsum, torch.cumsum, lambda x: ((x,), {"dim": 1})),
    "logsumexp": (functional.logsumexp, torch.logsumexp, lambda x: ((x, 1), {})),
    "softmax": (functional.softmax, torch.softmax, lambda x: ((x,), {"dim": -1})),
    "log_softmax": (functional.log_softmax, torch.log_softmax, lambda x: ((x, 0), {})),
    "var": (functional.var, torch.var, lambda x: ((x, 1), {"correction": 0})),
    "std": (functional.std, torch.std, lambda x: ((x,), {"dim": 0})),
    "vector_norm": (functional.vector_norm, torch.linalg.vector_norm, lambda x: ((x,), {"dim": 1})),
    "layer_norm": (functional.layer_norm, F.layer_norm, lambda x: ((x, (16,)), {"weight": x[0], "bias": x[1]})),
    "rms_norm": (functional.rms_norm, F.rms_norm, lambda x: ((x, (16,), x[0]), {"eps": 1e-5})),
    "cross_entropy": (functional.cross_entropy, F.cross_entropy, lambda x: ((x, _targets(x)), {"reduction": "sum"})),
    "matmul": (functional.matmul, torch.matmul, lambda x: ((x, x.T), {})),
    "scaled_dot_product_attention": (
        functional.scaled_dot_product_attention,
        F.scaled_dot_product_attention,
        lambda x: ((x.view(1, 2, 3, 16),) * 3, {"is_causal": True}),
    ),
}
