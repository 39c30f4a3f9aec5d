"""Is an error explained by one-ulp changes of the inputs? The oracle where no check knows better.

A backward stable computation has an error that some change of its inputs by about one unit in the last place
explains (Higham, ASNA 2nd ed., section 1.5). The expression is evaluated in float64, once on the inputs and a few
times on inputs moved by up to one ulp; the largest change of an element is what its error is held against.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from numguard.acceptance.trials import Tensors

MOST_CHANGES: Final = 8.0  # one-ulp changes that a computation without a bound of its own may be off by
NUM_DRAWS: Final = 8
Evaluate = Callable[[Tensors, Callable[[Tensor], Tensor] | None], Tensors]


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """The worst element of one output.

    Parameters
    ----------
    output
        Its name.
    index
        Of the element, flat.
    computed, exact
        What was returned and what float64 says.
    allowed
        :data:`MOST_CHANGES` times what one-ulp changes of the inputs and of the result come to.
    """

    output: str
    index: int
    computed: float
    exact: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Error over what is allowed; infinite for a value that is not finite."""
        error = abs(self.computed - self.exact)
        return error / self.allowed if error == error and error != float("inf") else float("inf")


def promoted(tensors: Tensors) -> Tensors:
    """Return contiguous float64 copies of floating-point tensors; others as they are."""
    return {name: x.to(torch.float64).contiguous() if x.is_floating_point() else x for name, x in tensors.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Nudge:
    """Moves the elements of tensors by up to one ulp of a dtype, evenly distributed, as a function of a seed."""

    eps: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return a moved copy in float64."""
        wide = x.to(torch.float64).contiguous()
        steps = torch.rand(x.shape, dtype=torch.float64, generator=self.generator)
        return torch.addcmul(wide, wide.abs().mul_(self.eps), steps.mul_(2.0).sub_(1.0))


def excesses(computed: Tensors, tensors: Tensors, evaluate: Evaluate, num_draws: int = NUM_DRAWS) -> list[Excess]:
    """Return the worst element of each output whose error one-ulp changes do not explain.

    Parameters
    ----------
    computed
        Outputs in their own dtypes.
    tensors
        The inputs.
    evaluate
        ``evaluate(inputs, move)``: the same computation on float64 inputs; ``move`` is applied to what flows back.
    """
    exact = evaluate(promoted(tensors), None)
    changes = {name: torch.zeros_like(x) for name, x in exact.items()}
    eps = max(torch.finfo(x.dtype).eps for x in tensors.values() if x.is_floating_point())
    for draw in range(num_draws):
        nudge = Nudge(eps=eps, generator=torch.Generator().manual_seed(draw))
        inputs = {name: nudge(x) if x.is_floating_point() else x for name, x in tensors.items()}
        for name, x in evaluate(inputs, nudge).items():
            change = (x - exact[name]).abs_()
            torch.maximum(changes[name], torch.nan_to_num(change, nan=0.0, posinf=0.0), out=changes[name])
    found = []
    for name, x in computed.items():
        if name in exact and exact[name].shape == x.shape and x.numel():
            worst = _worst(name, x, exact[name], changes[name])
            if worst is not None:
                found.append(worst)
    return found


def _worst(name: str, computed: Tensor, exact: Tensor, change: Tensor) -> Excess | None:
    limits = torch.finfo(computed.dtype)
    wide = computed.detach().to(torch.float64)
    # What flows back is of order one: a gradient that is zero but for rounding has nothing to be compared with.
    # A result that is flushed to zero is no worse than the smallest normal number.
    floor = MOST_CHANGES * limits.eps if name.endswith(".grad") else limits.tiny
    allowed = MOST_CHANGES * (change + exact.abs() * limits.eps) + floor
    error = (wide - exact).abs()
    in_range = torch.isfinite(exact) & (exact.abs() < limits.max * (1.0 - limits.eps)) & (allowed < limits.max)
    ratio = torch.where(in_range, torch.nan_to_num(error / allowed, nan=torch.inf, posinf=torch.inf), 0.0)
    ratio = torch.where(exact.isnan() & torch.isfinite(wide), torch.inf, ratio)
    place = int(ratio.reshape(-1).argmax())
    if not float(ratio.reshape(-1)[place]) > 1.0:
        return None
    pick = (wide.reshape(-1)[place], exact.reshape(-1)[place], allowed.reshape(-1)[place])
    value, right, most = (float(number) for number in pick)
    return Excess(output=name, index=place, computed=value, exact=right, allowed=most)
