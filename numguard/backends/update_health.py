"""Health of an optimizer step over many parameters: updates that rounding swallowed, non-finite values, norms."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.backends.kernel_modules import kernel_module
from numguard.backends.selection import backend_for, native_library
from numguard.errors import UsageError

DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


class UpdateHealth(NamedTuple):
    """Figures of each parameter tensor; lists are parameters, updates, then the moments.

    Attributes
    ----------
    num_updated, num_stagnant
        int64, (tensors,): elements with a finite update other than zero, and those that stay what they were.
    update_mass, lost_mass
        float64, (tensors,): sums of magnitudes of the finite updates, and of what rounding took from them.
    num_nonfinite
        int64, (lists, tensors).
    norms
        float64, (lists, tensors): 2-norms.
    """

    num_updated: Tensor
    num_stagnant: Tensor
    update_mass: Tensor
    lost_mass: Tensor
    num_nonfinite: Tensor
    norms: Tensor


class _Step(NamedTuple):
    """What the step of one tensor did, as the twin's own record has it."""

    num_updated: int
    num_stagnant: int
    update_mass: float
    lost_mass: float


def observed_updates(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], moments: Sequence[Sequence[Tensor]] = ()
) -> UpdateHealth:
    """Return the health of the step ``parameter + update`` for every tensor.

    Parameters
    ----------
    parameters, updates, moments
        Lists of tensors of the same shapes, of one of :data:`DTYPES` each, on one device.

    Raises
    ------
    UsageError
        For other dtypes, where lists or shapes do not correspond, and where the forced backend cannot be.
    """
    lists = [list(parameters), list(updates), *(list(moment) for moment in moments)]
    for row in lists[1:]:
        if [x.shape for x in row] != [x.shape for x in lists[0]]:
            raise UsageError(
                "observed_updates got lists of different lengths or shapes; give one tensor for each parameter"
            )
    for x in (x for row in lists for x in row):
        if x.dtype not in DTYPES:
            raise UsageError(f"observed_updates got {x.dtype}; give float32, bfloat16 or float16 tensors")
    device = lists[0][0].device if lists[0] else torch.device("cpu")
    backend = backend_for("update_health", device)
    if backend == "triton":
        return UpdateHealth(*kernel_module("updates").update_health(lists[0], lists[1], lists[2:]))
    library = native_library("update_health") if backend == "native" else None
    if library is not None and device.type == "cpu":
        import numguard_kernels.native as native

        steps: list[Any] = [native.step_health(library, p, u) for p, u in zip(lists[0], lists[1], strict=True)]
        values = [[native.values_health(library, x) for x in row] for row in lists]
    else:
        steps = [_step_by_numpy(p, u) for p, u in zip(lists[0], lists[1], strict=True)]
        values = [[_values_by_numpy(x) for x in row] for row in lists]
    return UpdateHealth(
        torch.tensor([step.num_updated for step in steps], dtype=torch.int64),
        torch.tensor([step.num_stagnant for step in steps], dtype=torch.int64),
        torch.tensor([step.update_mass for step in steps], dtype=torch.float64),
        torch.tensor([step.lost_mass for step in steps], dtype=torch.float64),
        torch.tensor([[count for count, _ in row] for row in values], dtype=torch.int64),
        torch.tensor([[norm for _, norm in row] for row in values], dtype=torch.float64),
    )


def _step_by_numpy(parameter: Tensor, update: Tensor) -> _Step:
    before, step = (x.detach().to("cpu", torch.float64).numpy() for x in (parameter, update))
    with np.errstate(all="ignore"):
        total = before + step
        error = (before - (total - (total - before))) + (step - (total - before))
        rounded = torch.from_numpy(np.asarray(total)).to(torch.float32).to(parameter.dtype)
        after = rounded.to(torch.float64).numpy()
        counts = np.isfinite(step) & (step != 0.0) & np.isfinite(after)
        lost = np.abs((total - after) + error)
    return _Step(
        int(np.count_nonzero(counts)),
        int(np.count_nonzero(counts & (after == before))),
        float(np.add.reduce(np.abs(step), axis=None, where=counts)),
        float(np.add.reduce(lost, axis=None, where=counts)),
    )


def _values_by_numpy(x: Tensor) -> tuple[int, float]:
    wide = x.detach().to("cpu", torch.float64).numpy()
    with np.errstate(all="ignore"):
        return int(np.count_nonzero(~np.isfinite(wide))), float(np.sqrt(np.add.reduce(wide * wide, axis=None)))
