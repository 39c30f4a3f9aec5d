"""What the ahead-of-time compilations of the kernels of rows have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from numguard_kernels.element_formats import ElementFormat
from numguard_kernels.spec import Compilation, Limits


def row_compilation(
    name: str,
    function: Any,
    form: ElementFormat,
    limits: Limits,
    *,
    shape: tuple[Mapping[str, int], int],
    stored: Sequence[str],
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    num_accesses: int,
    tiles_per_turn: int = 1,
    num_loops: int = 1,
    reason: str = "",
) -> Compilation:
    """Return the compilation of a kernel that gives every row a program; contraction is allowed in all of them.

    Parameters
    ----------
    name, function, limits
        Of the compilation; the limits are those of an H100.
    form
        Of the elements.
    shape
        The constants of a tile, and the threads that share it.
    stored
        Arguments that point to elements.
    types
        Triton types of the other run-time arguments but ``num_columns``.
    constants
        Values of the compile-time arguments but ``CODE`` and those of the tile.
    num_accesses
        How often each element is read or written in global memory.
    tiles_per_turn
        Tiles that a turn of the main loop takes.
    num_loops
        As of a :class:`~numguard_kernels.spec.Compilation`.
    reason
        Why issuing the instructions takes longer than moving the bytes, where it does.
    """
    tile, num_threads = shape
    return Compilation(
        name=name,
        function=function,
        signature={**dict.fromkeys(stored, form.pointer), **types, "num_columns": "i32"},
        constexprs={"CODE": form.code, **constants, **tile},
        num_threads=num_threads,
        elements_per_turn=tiles_per_turn * tile["THREADS"] * tile["LANES"],
        num_loops=num_loops,
        bytes_per_element=num_accesses * form.dtype.itemsize,
        fused_per_element=None,
        divisible=("num_columns",),
        limits={"sm_90": limits},
        issue_bound_because=reason,
    )
