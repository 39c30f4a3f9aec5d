"""How much results change with their inputs, from derivatives in float64: what conditions and bounds are made of."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Sensitivity(NamedTuple):
    """Of some elements of a result, to first order.

    Attributes
    ----------
    change
        ``sum_i |df/dx_i| |x_i|``, float64: what a relative change of 1 of every input could do.
    num_inputs
        How many inputs an element depends on, float64.
    """

    change: Tensor
    num_inputs: Tensor


def widened(arguments: Any, *, requires_grad: bool = False) -> tuple[Any, list[Tensor]]:
    """Return a structure with copies in float64 of its floating-point tensors, and these copies.

    Parameters
    ----------
    arguments
        Lists, tuples and dictionaries of anything. Other values stay as they are.
    requires_grad
        Whether the copies ask for derivatives.
    """
    leaves, structure = tree_flatten(arguments)
    copies: list[Tensor] = []
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            copy = leaf.detach().to(torch.float64, copy=True).requires_grad_(requires_grad)
            leaves[number] = copy
            copies.append(copy)
    return tree_unflatten(leaves, structure), copies


def sensitivity_of(result: Tensor, inputs: Sequence[Tensor], elements: Sequence[int]) -> Sensitivity:
    """Return the sensitivity of chosen elements of a differentiable result, one backward pass for each.

    Parameters
    ----------
    result
        float64, computed from ``inputs`` with autograd.
    inputs
        float64 leaves that require derivatives.
    elements
        Flat indices into ``result``.

    Raises
    ------
    RuntimeError
        Where the result does not depend on the inputs through autograd, or an operator has no derivative.
    """
    flat = result.reshape(-1)
    changes, counts = [], []
    for element in elements:
        gradients = torch.autograd.grad(flat[element], inputs, retain_graph=True, allow_unused=True)
        pairs = [(x, gradient) for x, gradient in zip(inputs, gradients, strict=True) if gradient is not None]
        changes.append(sum(((gradient * x).abs().sum().detach() for x, gradient in pairs), flat.new_zeros(())))
        counts.append(sum(int(torch.count_nonzero(gradient)) for _, gradient in pairs))
    stacked = torch.stack(changes) if changes else flat.new_zeros(0)
    return Sensitivity(stacked.detach(), torch.tensor(counts, dtype=torch.float64))


def condition_number_at(
    evaluate: Callable[..., Any], arguments: Any, pick: Callable[[Any], Tensor], element: int, exact: float
) -> float | None:
    """Return the condition number of one element of a result, or None where there is no derivative to tell.

    Parameters
    ----------
    evaluate
        Called with ``(*args, **kwargs)`` in float64.
    arguments
        ``(args, kwargs)``.
    pick
        Takes what ``evaluate`` returned and returns the tensor that is meant.
    element
        Flat index into it.
    exact
        The right value there, which ``evaluate`` may miss.

    Notes
    -----
    ``sum_i |df/dx_i| |x_i| / |f|``, the componentwise condition number (Higham, ASNA 2nd ed., section 1.6).
    """
    (args, kwargs), inputs = widened(arguments, requires_grad=True)
    try:
        with torch.enable_grad():
            change = float(sensitivity_of(pick(evaluate(*args, **kwargs)), inputs, [element]).change[0])
    except Exception:  # whatever a wrong function does in float64 must not hide that it is wrong
        return None
    if change == 0.0:
        return 1.0 if exact == 0.0 else 0.0
    return change / abs(exact) if exact else math.inf
