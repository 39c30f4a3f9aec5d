"""The verdict on one comparison in one pass over it, and what a judged comparison leaves behind.

Between the operators of a model a tensor that is made, cut or viewed costs ten times what it costs in a loop of its
own, and a sound result is never looked at again. So a verdict comes back as plain numbers, and shadows and bounds stay
in the memory that the library has written until somebody asks for them.
"""

import ctypes
import math
from array import array
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.library import DTYPES

NUM_NUMBERS: Final = 13
_ONE_NUMBER: Final = array("d", (0.0,))
_MOST_CLEARED: Final = 1 << 13  # numbers: more are not worth setting to zero before they are written


def memory_for(count: int) -> "tuple[array[float] | Tensor, int]":
    """Return memory for so many float64 numbers, at least one, and its address."""
    if count <= _MOST_CLEARED:
        cleared = _ONE_NUMBER * count
        return cleared, cleared.buffer_info()[0]
    memory = torch.empty(count, dtype=torch.float64)
    return memory, memory.data_ptr()


class JudgedElements(NamedTuple):
    """Elements that have been judged: the verdict in numbers, shadows and bounds for who asks, float64.

    Attributes
    ----------
    memory, first
        What the library has written, and where in it these elements begin.
    names
        What lies there, one after the other, each as many numbers as there are elements. A part that means nothing has
        an empty name.
    shape
        Of the elements.
    verdict
        Thirteen numbers.
    """

    memory: "array[float] | Tensor"
    first: int
    names: tuple[str, ...]
    shape: tuple[int, ...]
    verdict: list[float]

    def _part(self, name: str) -> Tensor | None:
        if name not in self.names:
            return None
        count = math.prod(self.shape)
        begin = self.first + count * self.names.index(name)
        memory = self.memory
        whole = memory if isinstance(memory, Tensor) else torch.frombuffer(memory, dtype=torch.float64)
        return whole[begin : begin + count].view(self.shape)

    @property
    def exact(self) -> Tensor:
        """The shadows."""
        found = self._part("exact")
        assert found is not None
        return found

    @property
    def strict(self) -> Tensor:
        """The strict bounds."""
        found = self._part("strict")
        assert found is not None
        return found

    @property
    def permissive(self) -> Tensor | None:
        """The permissive bounds; None where they are the strict ones."""
        return self._part("permissive")

    @property
    def shadow_error(self) -> Tensor:
        """Bounds on the errors of the shadows; a zero where there are none to speak of."""
        found = self._part("shadow_error")
        return torch.zeros((), dtype=torch.float64) if found is None else found

    @property
    def computed(self) -> Tensor | None:
        """What was compared, where it is no result of the operator but was formed on the way: checksums."""
        return self._part("computed")


def numbers_at(memory: "array[float] | Tensor", first: int) -> list[float]:
    """Return the numbers of the verdict that begins there."""
    numbers: list[float] = memory[first : first + NUM_NUMBERS].tolist()
    return numbers


def judged_comparison(
    library: ctypes.CDLL,
    computed: Tensor,
    exact: Tensor,
    strict: Tensor | float,
    permissive: Tensor | float | None,
    shadow_error: Tensor | float,
    *,
    unit_roundoff: float,
    smallest_rounding: float,
    largest: float,
    rounds_output: bool,
    propagates_nonfinite: bool,
) -> list[float]:
    """Return the thirteen numbers of a verdict, in the caller's order.

    Parameters
    ----------
    computed
        Results, contiguous, any known dtype, at least one element.
    exact, strict, permissive, shadow_error
        float64, contiguous, each with as many elements as ``computed`` or with one; or a number.
    unit_roundoff, smallest_rounding, largest
        Of the dtype of the results.
    rounds_output, propagates_nonfinite
        As the caller's comparison says.
    """
    out, address = memory_for(NUM_NUMBERS)
    alone = (ctypes.c_double * 3)()
    places = [_place(values, alone, number) for number, values in enumerate((strict, permissive, shadow_error))]
    library.ng_judge(
        computed.numel(),
        computed.data_ptr(),
        DTYPES[computed.dtype],
        exact.data_ptr(),
        int(exact.numel() != 1),
        *places[0],
        *places[1],
        *places[2],
        unit_roundoff,
        smallest_rounding,
        largest,
        rounds_output,
        propagates_nonfinite,
        address,
    )
    return numbers_at(out, 0)


def _place(values: Tensor | float | None, alone: Any, number: int) -> tuple[int, int]:
    """Return where numbers lie and their step; a lone number is put into ``alone``."""
    if values is None:
        return 0, 0
    if isinstance(values, Tensor):
        return values.data_ptr(), int(values.numel() != 1)
    alone[number] = values
    return ctypes.addressof(alone) + 8 * number, 0
