"""Rows of logits on which softmax and the logarithms of its sums are compared with their references."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard_kernels.rows import ROW_DTYPES
from numguard_kernels.sample_tensors import LAYOUTS, sample
from numguard_kernels.spec import Arguments, Case, case_name

_CONTENTS: Final = ("ordinary", "subnormal", "zeros", "infinite", "nan", "both_infinities", "largest")


def sample_logits(
    shape: tuple[int, ...], dtype: torch.dtype, content: str, *, scale: float, is_masked: bool = False
) -> Tensor:
    """Return a sample, its ordinary values multiplied; masked ones are every second, and all of the first row."""
    x = sample(shape, dtype, content)
    if content == "ordinary":
        x = (x.double() * scale).to(dtype)
    if is_masked:
        x[..., ::2] = float("-inf")
        x[:1] = float("-inf")
    return x


def logit_cases(
    options_of: Callable[[Tensor, str], dict[str, Any]], *, scale: float, sizes: Sequence[int], hows: Sequence[str]
) -> tuple[Case, ...]:
    """Return the cases of a kernel that reads rows of logits and nothing else.

    Parameters
    ----------
    options_of
        Returns the options of a call, on the CPU, for its logits and one of ``hows``.
    scale
        By which ordinary values are multiplied.
    sizes
        Lengths of rows.
    hows
        What else is tried; ``"masked"`` also changes the logits.
    """

    def case(
        dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous", how: str = ""
    ) -> Case:
        def make(device: torch.device) -> Arguments:
            x = sample_logits(shape, dtype, content, scale=scale, is_masked=how == "masked")
            options = options_of(x, how)
            if "computed" in options:
                options["computed"] = options["computed"].to(device)
            return (LAYOUTS[layout](x.to(device)),), options

        return Case(name=case_name(dtype, content, shape, layout, how), make=make)

    found = [case(dtype, content, (3, 37)) for dtype in ROW_DTYPES for content in _CONTENTS]
    found += [case(torch.float32, "ordinary", (2, 19), layout) for layout in LAYOUTS if layout != "contiguous"]
    found += [case(torch.bfloat16, "ordinary", (2, size)) for size in sizes]
    found += [case(dtype, "ordinary", (3, 70), how=how) for dtype in ROW_DTYPES for how in hows]
    return (*found, case(torch.float32, "ordinary", (0, 5)))
