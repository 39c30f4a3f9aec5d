"""Cross entropies that check themselves: logits are read once, vocabularies of any size."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard_kernels.logit_samples import sample_logits
from numguard_kernels.logsumexp import (
    TWO_EXPONENTIALS,
    CheckedRows,
    compilation_of_rows,
    launch_rows,
    reference_rows,
    tolerance_of_rows,
)
from numguard_kernels.rows import ROW_DTYPES
from numguard_kernels.sample_tensors import LAYOUTS, random_rows
from numguard_kernels.spec import Arguments, Case, KernelSpec, Limits, case_name


def checked_cross_entropy(
    logits: Tensor, targets: Tensor, *, computed: Tensor | None = None, ignore_index: int = -100
) -> CheckedRows:
    """Return the cross entropy of every row against its target, and its verdict, from one read of the logits.

    Parameters
    ----------
    logits
        float32, float16 or bfloat16 of shape ``[..., n]`` with ``n >= 1``; vocabularies of any size.
    targets
        int64 of shape ``[...]``. A target that is neither ``ignore_index`` nor a column gives NaN.
    computed
        Losses of another implementation before their mean is taken, of shape ``[...]`` and the dtype of the logits:
        then these are judged, and none are formed.
    ignore_index
        Targets whose loss is zero.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For targets or losses of another shape.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    The loss is :func:`~numguard_kernels.logsumexp.checked_logsumexp` less the target's logit; ``2 u |x_t - m|`` joins
    its bound. A row whose loss is not finite is not judged.
    """
    if targets.dtype is not torch.int64:
        raise TypeError(f"checked_cross_entropy takes int64 targets and got {targets.dtype}: call targets.long()")
    return launch_rows("checked_cross_entropy", logits, targets, computed, ignored=ignore_index)


def reference_cross_entropy(
    logits: Tensor, targets: Tensor, *, computed: Tensor | None = None, ignore_index: int = -100
) -> CheckedRows:
    """Return the same from plain torch in float64, the value rounded once; the bound is the kernel's own."""
    wide = logits.double()
    counted = targets != ignore_index
    known = (targets >= 0) & (targets < logits.shape[-1])
    logit = wide.gather(-1, torch.where(known, targets, 0)[..., None])[..., 0]
    exact = torch.where(counted, wide.logsumexp(-1) - torch.where(known, logit, torch.nan), 0.0)
    return reference_rows(exact, wide, computed, logits.dtype, torch.float32)


def _tolerance(expected: CheckedRows, logits: Tensor, targets: Tensor, **_options: Any) -> dict[str, Any]:
    wide = logits.double()
    logit = wide.gather(-1, targets.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    far = (logit - wide.amax(-1)).abs().nan_to_num(0.0, 0.0, 0.0) * 2.0**-21
    far += wide.amax(-1).abs().nan_to_num(0.0, 0.0, 0.0) * 2.0**-22
    return tolerance_of_rows(expected, wide, far)


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous", how: str = "") -> Case:
    def make(device: torch.device) -> Arguments:
        x = sample_logits(shape, dtype, content, scale=6.0)
        targets = torch.arange(x[..., 0].numel()).view(shape[:-1]) * 7 % shape[-1]
        if how == "ignored":
            targets[1] = -100
            targets[2] = shape[-1]
        options: dict[str, Any] = {}
        if how in ("right", "wrong"):
            given = reference_cross_entropy(x, targets).shadow
            given[1] *= 1.5 if how == "wrong" else 1.0
            options["computed"] = given.to(torch.float32).to(dtype).to(device)
        return (LAYOUTS[layout](x.to(device)), targets.to(device)), options

    return Case(name=case_name(dtype, content, shape, layout, how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "nan", "infinite", "zeros")
    found = [_case(dtype, content, (2, 41)) for dtype in ROW_DTYPES for content in contents]
    hows = ("right", "wrong", "ignored")
    found += [_case(dtype, "ordinary", (3, 67), how=how) for dtype in ROW_DTYPES for how in hows]
    found += [_case(torch.float32, "ordinary", (2, 2, 19), layout) for layout in ("permuted", "every second")]
    return tuple(found)


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    logits = random_rows(num_elements, 131072, dtype, device)
    return (logits, torch.zeros(logits.shape[0], dtype=torch.int64, device=device)), {}


SPEC: Final = KernelSpec(
    name="checked_cross_entropy",
    launcher=checked_cross_entropy,
    reference=reference_cross_entropy,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        compilation_of_rows(torch.float32, Limits(instructions_per_element=27.83, registers=34), targets=True),
        compilation_of_rows(
            torch.bfloat16, Limits(instructions_per_element=24.09, registers=42), TWO_EXPONENTIALS, targets=True
        ),
        compilation_of_rows(
            torch.bfloat16, Limits(instructions_per_element=17.46, registers=34), given=True, targets=True
        ),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda logits, targets, **_options: logits.numel() * logits.element_size(),
    flops=lambda logits, targets, **_options: logits.numel() * 24,
    rivals={
        "torch cross_entropy": lambda logits, targets, **_options: torch.nn.functional.cross_entropy(
            logits, targets, reduction="none"
        )
    },
)
