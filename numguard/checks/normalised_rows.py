"""How the tensors of a normalisation call split into rows and columns, and how both are sampled."""

from math import prod
from typing import NamedTuple

from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.row_samples import sampled_rows, view_of
from numguard.shadow.call import OpCall


class Layout(NamedTuple):
    """How a call's tensors split into rows: leading dimensions number rows, the others are normalised."""

    leading: tuple[int, ...]
    normalised: tuple[int, ...]

    @property
    def length(self) -> int:
        """Elements of one row."""
        return prod(self.normalised)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return prod(self.leading)

    def flat(self, tensor: Tensor, rows: tuple[slice, ...]) -> Tensor:
        """Return the picked rows with the normalised dimensions merged into the last."""
        if len(self.normalised) == 1 or tensor.dim() == len(self.leading) + 1:
            return view_of(tensor, tensor.shape, tensor.stride(), rows)
        picked = tensor.detach()[rows]
        return picked.reshape(*picked.shape[: len(self.leading)], -1)

    def columns(self, tensor: Tensor, picked: tuple[slice, ...]) -> Tensor:
        """Return all rows of the picked columns, shape ``[rows, columns]``."""
        columns = tensor.detach()[(slice(None),) * len(self.leading) + picked]
        return columns.reshape(self.num_rows, prod(columns.shape[len(self.leading) :]))


def layout_of(call: OpCall) -> Layout:
    """Return how the input of a call splits into rows."""
    shape, normalised = call["input"].shape, tuple(call["normalized_shape"])
    return Layout(tuple(shape[: len(shape) - len(normalised)]), normalised)


def flat_parameter(parameter: Tensor | None) -> Tensor | None:
    """Return weight or bias as one row, contiguous."""
    if parameter is None:
        return None
    row = parameter.detach()
    return row.contiguous() if row.dim() == 1 else row.reshape(-1)


def wide_parameter(parameter: Tensor | None) -> Tensor | None:
    """Return weight or bias as one float64 row."""
    return None if parameter is None else parameter.detach().double().reshape(-1)


class Columns(NamedTuple):
    """Picked columns of a backward call: dy, x, mean and rstd as stored, ``[rows, columns]`` and ``[rows, 1]``."""

    picked: tuple[slice, ...]
    dy: Tensor
    x: Tensor
    mean: Tensor | None
    rstd: Tensor


def columns_of(call: OpCall, layout: Layout, probe: Probe, cost: float) -> Columns:
    """Return columns of a backward call within the probe's limit, each of which costs ``cost`` a row."""
    picked = sampled_rows(layout.normalised, cost * layout.num_rows, probe)
    dy, x = (layout.columns(call[name], picked) for name in ("grad_out", "input"))
    mean = call.arguments.get("mean")
    shape = (layout.num_rows, 1)
    return Columns(
        picked, dy, x, None if mean is None else mean.detach().reshape(shape), call["rstd"].detach().reshape(shape)
    )
