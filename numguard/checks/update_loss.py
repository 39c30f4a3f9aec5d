"""How much of what an optimizer meant to do was lost to rounding: stagnation of parameters.

A parameter stagnates where the intended update is below half the spacing of its format: the stored value stays what
it was, however long the gradient points the same way. Updates that do change the parameter are rounded without
bias over many steps and are not counted as lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.fused_optimizers import Before
from numguard.checks.tensor_lists import Selection
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared

#: Share of lost update mass from which a module is reported. At one half the parameters of a module follow a steady
#: gradient at half the learning rate that was asked for: a change of hyperparameters by a factor of two, which nobody
#: would make unsaid. Training in float32, or with float32 master weights, loses less than one thousandth.
THRESHOLD: Final = 0.5

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


def element_masses(before: Tensor, intended_after: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the update mass lost to rounding and the intended update mass of every element.

    Parameters
    ----------
    before, after
        Parameters before and after the step, in their own dtype.
    intended_after
        The parameters that exact arithmetic would have given, float64.

    Returns
    -------
    tuple of Tensor
        ``(lost_mass, intended_mass)``, float64, of the shape of the parameters. The intended mass is
        ``|intended_after - before|``; it is lost where the stored value did not change. Elements without a finite
        intended value have neither. Nothing synchronises with the host.
    """
    old = before.to(torch.float64)
    change = (intended_after - old).abs()
    change = torch.where(torch.isfinite(change), change, 0.0)
    return torch.where(after.to(torch.float64) == old, change, 0.0), change


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorMasses:
    """Update masses of one call by tensor.

    Parameters
    ----------
    numbers
        Positions of the tensors in the operator's list; 0 for an operator on one tensor.
    lost, intended
        Float64 vectors with one mass per number.
    """

    numbers: tuple[int, ...]
    lost: Tensor
    intended: Tensor


def _pairs(
    captured: Any, comparisons: Sequence[Compared], output: str
) -> list[tuple[Selection, Tensor, Compared]] | None:
    """Pair every group of copies with the comparison of the parameters that it belongs to."""
    named = [c for c in comparisons if c.output == output or c.output.startswith(output + "[")]
    if not captured or len(named) != len(captured):
        return None
    return [
        (group.selection, group.values["self"] if isinstance(group, Before) else group.values[0], comparison)
        for group, comparison in zip(captured, named, strict=True)
    ]


def update_masses_by_tensor(
    call: OpCall,
    captured: Any,
    comparisons: Sequence[Compared],
    is_parameter: Callable[[Tensor], bool] | None = None,
) -> list[TensorMasses] | None:
    """Return the update masses of a checked optimizer call, tensor by tensor, one record per dtype.

    Parameters
    ----------
    call
        The call after the operator ran.
    captured
        What the check's ``capture`` returned.
    comparisons
        What the check's ``judge`` returned.
    is_parameter
        Tells whether a tensor is a parameter. Fused optimizers name their parameters and do not ask; foreach and
        plain operators also update moments, gradients and step counts, so without it nothing is known of them.

    Returns
    -------
    list of TensorMasses, or None
        None where the call does not tell what it updated, or nothing was captured.

    Notes
    -----
    A step of several operators (decoupled decay, then the update) counts the intended mass of each.
    """
    fused = call.overload._schema.name.startswith("aten::_fused_")
    pairs = _pairs(captured, comparisons, "param" if fused else "self")
    if pairs is None or not (fused or is_parameter):
        return None
    tensors = call["self"] if isinstance(call["self"], list | tuple) else [call["self"]]
    if not fused and is_parameter is not None:
        chosen = [tensors[number] for selection, _, _ in pairs for number in selection.numbers]
        if not chosen or not all(is_parameter(tensor) for tensor in chosen):
            return None
    records = []
    for selection, before, comparison in pairs:
        lost, intended = element_masses(before, comparison.exact, comparison.computed)
        masses = [
            torch.stack([part.sum() for part in torch.split(mass, list(selection.sizes))]) for mass in (lost, intended)
        ]
        records.append(TensorMasses(numbers=selection.numbers, lost=masses[0], intended=masses[1]))
    return records


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateLedger:
    """Update masses by top-level module over the steps of a window.

    Adding to a ledger gives a new one and reads nothing back from a device; ``share`` does.

    Parameters
    ----------
    first_step
        Steps below it are warm-up and are not counted: with a rising learning rate updates start at zero, and being
        lost then says nothing.
    last_step
        Last step that counts.
    lost, intended
        Masses by module so far, 0-dim float64.
    """

    first_step: int
    last_step: int
    lost: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    intended: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)

    def with_masses(self, step: int, module: str, lost: Tensor, intended: Tensor) -> "UpdateLedger":
        """Return the ledger with the masses of one call added; the same ledger outside the window."""
        if not self.first_step <= step <= self.last_step:
            return self
        return UpdateLedger(
            first_step=self.first_step,
            last_step=self.last_step,
            lost={**self.lost, module: self.lost.get(module, 0.0) + lost},
            intended={**self.intended, module: self.intended.get(module, 0.0) + intended},
        )

    def is_complete(self, step: int) -> bool:
        """Return whether the window has ended at ``step``."""
        return step > self.last_step

    def share(self, module: str) -> float:
        """Return the lost share of a module's intended update mass, 0 to 1; 0 where nothing was intended."""
        intended = float(self.intended.get(module, 0.0))
        return float(self.lost[module]) / intended if intended > 0.0 else 0.0

    def shares(self) -> dict[str, float]:
        """Return the lost share of every module, largest first."""
        return dict(sorted(((name, self.share(name)) for name in self.intended), key=lambda item: -item[1]))
