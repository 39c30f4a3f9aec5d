"""Elementwise operators of optimizer steps, with bounds and verdicts from one read."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS, JudgedElements, memory_for, numbers_at
from numguard_kernels.native.library import DTYPES, NUM_TERMS, RULES, Pointwise


def judged_pointwise(library: ctypes.CDLL, computed: Tensor, terms: Sequence[Tensor], by: Pointwise) -> JudgedElements:
    """Judge one elementwise operator; ``shadow_error`` is a zero.

    Parameters
    ----------
    computed, terms
        Vectors of one known dtype and length, contiguous: results, and the one to three tensors that they come from,
        without the one that a constant stands for.
    by
        Coefficients.

    Raises
    ------
    ValueError
        Where the tensors and the constant are not as many as the operator's terms.
    """
    count = computed.numel()
    out, address = memory_for(3 * count + NUM_NUMBERS)
    places: list[int | None] = [term.data_ptr() for term in terms]
    if by.has_constant:
        places.insert(1, None)
    if len(places) != NUM_TERMS[by.rule]:
        raise ValueError(f"{RULES[by.rule]} has {NUM_TERMS[by.rule]} terms, and got {len(places)}")
    library.ng_judged_pointwise(
        count,
        DTYPES[computed.dtype],
        computed.data_ptr(),
        *places,
        *(None,) * (3 - len(places)),
        ctypes.addressof(by),
        address,
        address + 24 * count,
    )
    names = ("exact", "strict", "permissive") if by.has_permissive else ("exact", "strict")
    return JudgedElements(out, 0, names, (count,), numbers_at(out, 3 * count))
