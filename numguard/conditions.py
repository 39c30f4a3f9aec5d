"""The condition number of one call, where it has a closed form."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.numerics import (
    dot_condition_number,
    log_softmax_condition_number,
    logsumexp_condition_number,
    norm_condition_number,
    softmax_condition_number,
    sum_condition_number,
)
from numguard.shadow.call import OpCall

MOST_ELEMENTS: Final = 1 << 24  # of an input; beyond that the float64 copies are too large


def _rows(x: Tensor, dim: Any) -> Tensor:
    """Return ``x`` in float64 with the reduced dimensions merged into one last dimension."""
    wide = x.detach().to(torch.float64)
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
    if x.dim() == 0:
        return wide.reshape(1)
    reduced = sorted(d % x.dim() for d in dims)
    kept = [d for d in range(x.dim()) if d not in reduced]
    return wide.permute(*kept, *reduced).reshape(*(x.shape[d] for d in kept), -1)


def _sum(call: OpCall) -> Tensor:
    return sum_condition_number(_rows(call["self"], call.arguments.get("dim")))


def _nansum(call: OpCall) -> Tensor:
    rows = _rows(call["self"], call.arguments.get("dim"))
    return sum_condition_number(torch.where(rows.isnan(), 0.0, rows))


def _norm(call: OpCall) -> Tensor | None:
    order = call.arguments.get("ord", call.arguments.get("p"))
    return norm_condition_number(_rows(call["self"], call.arguments.get("dim")), 2.0 if order is None else float(order))


def _logsumexp(call: OpCall) -> Tensor:
    return logsumexp_condition_number(_rows(call["self"], call["dim"]))


def _softmax(call: OpCall) -> Tensor:
    return softmax_condition_number(_rows(call["self"], call["dim"]))


def _log_softmax(call: OpCall) -> Tensor:
    return log_softmax_condition_number(_rows(call["self"], call["dim"]))


def _product(call: OpCall) -> Tensor:
    """Find the worst-conditioned element along NumPy's route and give its condition number, compensated."""
    factors = [value for value in call.arguments.values() if isinstance(value, Tensor)][:2]
    left, right = (factor.detach().to("cpu", torch.float64) for factor in factors)
    left = left.unsqueeze(0) if left.dim() == 1 else left
    right = right.unsqueeze(-1) if right.dim() == 1 else right
    with np.errstate(all="ignore"):
        mass = np.matmul(left.abs().numpy(), right.abs().numpy())
        value = np.abs(np.matmul(left.numpy(), right.numpy()))
        *batch, row, column = np.unravel_index(int(np.argmax(np.where(mass == 0.0, 0.0, mass / value))), mass.shape)
    place = tuple(int(index) for index in batch)
    return dot_condition_number(left[place][int(row)], right[place][:, int(column)])


_CONDITIONS: Final[Mapping[str, Callable[[OpCall], Tensor | None]]] = MappingProxyType(
    {
        "aten::sum": _sum,
        "aten::mean": _sum,
        "aten::nansum": _nansum,
        "aten::linalg_vector_norm": _norm,
        "aten::logsumexp": _logsumexp,
        "aten::_softmax": _softmax,
        "aten::_safe_softmax": _softmax,
        "aten::_log_softmax": _log_softmax,
        "aten::mm": _product,
        "aten::bmm": _product,
        "aten::mv": _product,
        "aten::dot": _product,
    }
)


def _largest(condition: Tensor) -> float:
    return float("nan") if condition.isnan().any() else float(condition.max())


def condition_number_of(call: OpCall) -> float | None:
    """Return the condition number of the worst-conditioned element of a call's result.

    By how much a relative change of every input is magnified in that element, to first order. None for an operator
    without a closed form in :mod:`numguard.numerics.conditioning`, for an empty result, and for an input beyond 2**24
    elements.

    Parameters
    ----------
    call
        A call that has run and has not overwritten its inputs.

    Returns
    -------
    float or None
        Infinite where a result of zero comes from inputs that are not zero.
    """
    conditions = _CONDITIONS.get(call.op.partition(".")[0])
    inputs = [value for value in call.arguments.values() if isinstance(value, Tensor)]
    if conditions is None or not inputs or not inputs[0].is_floating_point():
        return None
    if any(tensor.numel() == 0 or tensor.numel() > MOST_ELEMENTS for tensor in inputs):
        return None
    with torch.no_grad():
        condition = conditions(call)
    return None if condition is None or condition.numel() == 0 else _largest(condition)
