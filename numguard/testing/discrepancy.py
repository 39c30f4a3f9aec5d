"""What is wrong with one result, in the figures that prove it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from numguard.numerics.ulps import forward_error_in_ulps


@dataclass(frozen=True, kw_only=True, slots=True)
class Discrepancy:
    """A result outside its bound, described by its worst element.

    Parameters
    ----------
    what
        The operator and its output, or which output of the tested function.
    computed
        The worst element as it was returned: one element in the dtype of the result.
    exact
        What is right there, in float64.
    error_bound
        What a correct implementation can be off by there, absolute.
    index
        Where it stands in the result; None where the check looked at the elements in another arrangement.
    num_wrong, num_elements
        How many elements are outside their bounds, and how many there are.
    condition_number
        By how much a relative change of the inputs is magnified there, componentwise; None where that is not known.
    basis
        Where the bound comes from, in a few words.
    """

    what: str
    computed: Tensor
    exact: float
    error_bound: float
    index: tuple[int, ...] | None
    num_wrong: int
    num_elements: int
    condition_number: float | None
    basis: str

    def __str__(self) -> str:
        value = self.computed.item()
        error = abs(value - self.exact)
        times = f", exceeded {error / self.error_bound:.4g} times" if self.error_bound > 0 else ""
        rows = {
            "computed": f"{value!r} ({self.computed.dtype})",
            "exact": f"{self.exact!r}" if self.computed.is_floating_point() else f"{self.exact:.0f}",
            "forward error": f"{error:.6g}{self._in_ulps()}",
            "error bound": f"{self.error_bound:.6g}{times} ({self.basis})",
            "condition number": "not known" if self.condition_number is None else f"{self.condition_number:.6g}",
        }
        at = "" if self.index is None else f", at index {self.index}"
        lines = [f"{self.what}: {self.num_wrong} of {self.num_elements} elements are wrong. The worst{at}:"]
        return "\n".join([*lines, *(f"  {name:<17} {text}" for name, text in rows.items())])

    def _in_ulps(self) -> str:
        if not self.computed.dtype.is_floating_point:
            return ""
        exact = torch.tensor(self.exact, dtype=torch.float64)
        return f" = {forward_error_in_ulps(self.computed.reshape(()), exact).item():.6g} ulps"
