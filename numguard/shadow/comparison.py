"""What a check hands on: results beside their shadows and the bounds that a correct implementation meets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from numguard.backends.dot import JudgedElements

Model = Literal["proved", "calibrated", "assumed"]
Segments = tuple[tuple[str, int], ...]


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
    """

    output: str
    computed: Tensor
    exact: Tensor
    strict: Tensor | float
    permissive: Tensor | float | None = None
    shadow_error: Tensor | float = 0.0
    model: Model = "proved"
    rounds_output: bool = True
    propagates_nonfinite: bool = False
    segments: Segments = ()


class JudgedComparison(NamedTuple):
    """A comparison that its route has judged on its way, in host memory.

    It has everything that a :class:`Comparison` has, and no tensor is made before somebody asks for one: between the
    operators of a model that would cost more than the judging.

    Parameters
    ----------
    output, model, propagates_nonfinite, segments
        As in :class:`Comparison`.
    elements
        Shadows, bounds, and the numbers of the verdict.
    view
        The elements as the operator returned them, or what returns them.
    """

    output: str
    elements: "JudgedElements"
    view: Tensor | Callable[[], Tensor]
    model: Model = "proved"
    propagates_nonfinite: bool = False
    segments: Segments = ()

    @property
    def rounds_output(self) -> bool:
        """True: what must equal its shadow exactly is judged apart."""
        return True

    @property
    def verdict(self) -> Sequence[float]:
        """The numbers of :class:`~numguard.shadow.verdict.Verdict`."""
        return self.elements.verdict

    @property
    def computed(self) -> Tensor:
        """As in :class:`Comparison`, like everything below."""
        return self.view if isinstance(self.view, Tensor) else self.view()

    @property
    def exact(self) -> Tensor:
        """The shadows."""
        return self.elements.exact

    @property
    def strict(self) -> Tensor:
        """The strict bounds."""
        return self.elements.strict

    @property
    def permissive(self) -> Tensor | None:
        """The permissive bounds; None where they are the strict ones."""
        return self.elements.permissive

    @property
    def shadow_error(self) -> Tensor:
        """Bounds on the errors of the shadows."""
        return self.elements.shadow_error


Compared = Comparison | JudgedComparison


def output_at(output: str, segments: Segments, index: int) -> str:
    """Return which output a flat ``index`` lies in: ``"param[3]"`` where tensors were joined."""
    for name, num_elements in segments:
        if index < num_elements:
            return name
        index -= num_elements
    return output
