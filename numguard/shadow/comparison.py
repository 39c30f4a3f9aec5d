"""What a check hands on: results beside their shadows and the bounds that a correct implementation meets."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


class NotCovered(Exception):  # noqa: N818  (a reason for coverage, not an error)
    """A check cannot judge this call; the message is the reason that coverage reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Some elements of one output beside their shadow.

    Every tensor has the shape of ``computed`` (or broadcasts to it) and lives on its device.

    Parameters
    ----------
    output
        Which output: ``"result"``, ``"grad_weight"``.
    computed
        The elements as the operator returned them, in their own dtype.
    exact
        The shadow values in float64.
    strict
        Bound on ``|computed - exact|`` before output rounding for the documented (or best sibling's)
        accumulation, float64.
    permissive
        The same for the accumulation that this build uses; None where it is the strict one.
    shadow_error
        Bound on the error of ``exact`` itself, beyond ``4 * 2**-53 * |exact|``.
    model
        What the permissive bound assumes of the implementation.
    rounds_output
        False for operators that only copy or select: their result must equal the shadow exactly.
    propagates_nonfinite
        True where a NaN or Inf of the shadow must appear in the result as a non-finite value.
    segments
        For elements joined from several tensors: the name of each and how many of its elements follow, in order.
    verdict
        The numbers of :class:`~numguard.shadow.verdict.Verdict` where the route has judged on its way; else None.
    """

    output: str
    computed: Tensor
    exact: Tensor
    strict: Tensor | float
    permissive: Tensor | float | None = None
    shadow_error: Tensor | float = 0.0
    model: Literal["proved", "calibrated", "assumed"] = "proved"
    rounds_output: bool = True
    propagates_nonfinite: bool = False
    segments: tuple[tuple[str, int], ...] = ()
    verdict: Tensor | None = None

    def output_at(self, index: int) -> str:
        """Return which output the flat ``index`` lies in: ``"param[3]"`` where tensors were joined."""
        for name, num_elements in self.segments:
            if index < num_elements:
                return name
            index -= num_elements
        return self.output
