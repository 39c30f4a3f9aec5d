"""A recorded region again, in float64: what it would have returned without rounding."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.numerics import ulp
from numguard.regions.recording import Origin, RecordedOp, Recording, Slot, leaves, map_tensors
from numguard.shadow.comparison import NotCovered

_FLOATS: Final = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
# Flat on one side of a corner.
_FLAT: Final = frozenset({"relu", "clamp", "clamp_min", "clamp_max", "hardtanh", "threshold", "hardsigmoid"})


class Values:
    """The inputs and constants of a region in float64, by slot.

    Parameters
    ----------
    recording
        Of the region.
    """

    def __init__(self, recording: Recording) -> None:
        self.fixed: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self._recording = recording
        for number, origin in enumerate(recording.origins):
            if origin is Origin.COMPUTED:
                continue
            value = recording.value(number).detach()
            if origin is Origin.CONSTANT:
                self.fixed[number] = value.to(torch.float64) if value.is_floating_point() else value
            else:
                self.inputs[number] = value.to(torch.float64)

    def steps(self) -> list[Tensor]:
        """Return by how much one ulp moves each element of each input."""
        steps = []
        for number in self.inputs:
            value = self._recording.value(number).detach()
            if self._recording.origins[number] is Origin.ABSOLUTE:
                steps.append(ulp_or_zero(value.abs().clamp(min=1.0)))
            else:
                steps.append(ulp_or_zero(value))
        return steps


def ulp_or_zero(value: Tensor) -> Tensor:
    """Return the gap at each element in its own format, 0 where there is none."""
    return torch.where(torch.isfinite(value), ulp(value, value.dtype), 0.0)


def signs(value: Tensor, random: torch.Generator) -> Tensor:
    """Return plus or minus one for each element, drawn from a private generator on the host."""
    drawn = torch.empty(value.shape, dtype=torch.float64).bernoulli_(0.5, generator=random)
    return drawn.mul_(2.0).sub_(1.0).to(value.device)


def replay(
    recording: Recording, fixed: dict[int, Tensor], inputs: dict[int, Tensor], *, slopes: bool = False
) -> dict[int, Tensor]:
    """Return every slot in float64.

    Parameters
    ----------
    recording
        Of the region.
    fixed, inputs
        Values by slot. They are not written to: an operator that overwrites what it is given gets a copy.
    slopes
        Whether derivatives will be taken. Those of operators with flat parts are then 1 everywhere, their largest: a
        value that rounding has carried over the corner is explained by the slope beside it.

    Raises
    ------
    NotCovered
        Where an operator of the region does not run in float64.
    """
    table = {number: value.clone() for number, value in (fixed | inputs).items()}
    for op in recording.ops:
        try:
            output = _run(op, table, slopes)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            raise NotCovered(f"{op.func._schema.name} was not replayed in float64: {type(error).__name__}") from None
        for number, value in zip(op.results, leaves(output), strict=True):
            if number is not None:
                table[number] = value
    return table


def _run(op: RecordedOp, table: dict[int, Tensor], slopes: bool) -> Any:
    func = op.func

    def fill(value: Any) -> Any:
        if isinstance(value, Slot):
            return table[value.number]
        return torch.float64 if value.__class__ is torch.dtype and value in _FLOATS else value

    args = map_tensors(op.args, fill)
    kwargs = {name: map_tensors(value, fill) for name, value in op.kwargs.items()}
    if func._schema.name in ("aten::_softmax", "aten::_log_softmax"):
        args = (*args[:2], False)  # half_to_float
    name = func._schema.name.partition("::")[2]
    if slopes and name.rstrip("_") in _FLAT:
        before = args[0].clone()
        after = func(args[0].detach().clone(), *args[1:], **kwargs).detach()
        sloped = before + (after - before.detach())
        return args[0].copy_(sloped) if name.endswith("_") else sloped
    return func(*args, **kwargs)
