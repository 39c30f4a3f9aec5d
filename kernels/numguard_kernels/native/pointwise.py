"""Elementwise operators of optimizer steps, with bounds and verdicts from one read."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS
from numguard_kernels.native.library import DTYPES, NUM_TERMS, RULES, Pointwise
from numguard_kernels.native.normalisation import JudgedRows


def judged_pointwise(library: ctypes.CDLL, computed: Tensor, terms: Sequence[Tensor], by: Pointwise) -> JudgedRows:
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
    out = torch.empty(3 * count + NUM_NUMBERS, dtype=torch.float64)
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
        out.data_ptr(),
        out.data_ptr() + 24 * count,
    )
    exact, strict, permissive, verdict = out.split([count, count, count, NUM_NUMBERS])
    return JudgedRows(exact, strict, permissive if by.has_permissive else None, _NOTHING, verdict)


_NOTHING = torch.zeros((), dtype=torch.float64)
