"""Cross entropies that check themselves: logits are read once, vocabularies of any size."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard_kernels.logsumexp import CheckedRows, launch_rows, reference_rows, row_compilation, rows_bound
from numguard_kernels.sample_tensors import LAYOUTS, sample
from numguard_kernels.spec import Arguments, Case, KernelSpec, Limits


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
    own = rows_bound(expected.shadow, wide, torch.float32) + far
    output = torch.finfo(expected.value.dtype)
    rounding = output.eps * (expected.shadow.abs().nan_to_num(0.0) + own) + output.tiny * output.eps
    return {"value": own + rounding, "shadow": own, "error_bound": float("inf")}


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous", how: str = "") -> Case:
    def make(device: torch.device) -> Arguments:
        x = sample(shape, dtype, content)
        if content == "ordinary":
            x = (x.double() * 6.0).to(dtype)
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

    return Case(name=f"{dtype} {content} {shape} {layout} {how}".replace("torch.", "").strip(), make=make)


def _cases() -> tuple[Case, ...]:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    found = [_case(dtype, content, (2, 41)) for dtype in dtypes for content in ("ordinary", "nan", "infinite", "zeros")]
    found += [_case(dtype, "ordinary", (3, 67), how=how) for dtype in dtypes for how in ("right", "wrong", "ignored")]
    found += [_case(torch.float32, "ordinary", (2, 2, 19), layout) for layout in ("permuted", "every second")]
    return tuple(found)


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    columns = min(131072, num_elements)
    logits = torch.randn(num_elements // columns, columns, device=device).to(dtype)
    return (logits, torch.zeros(logits.shape[0], dtype=torch.int64, device=device)), {}


_REASON: Final = "two exponentials, the shadow's by a series, for every two bytes read"
SPEC: Final = KernelSpec(
    name="checked_cross_entropy",
    launcher=checked_cross_entropy,
    reference=reference_cross_entropy,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        row_compilation("fp32", torch.float32, Limits(instructions_per_element=27.83, registers=34), targets=True),
        row_compilation(
            "bf16", torch.bfloat16, Limits(instructions_per_element=24.09, registers=42), reason=_REASON, targets=True
        ),
        row_compilation(
            "bf16 given", torch.bfloat16, Limits(instructions_per_element=17.46, registers=34), given=True, targets=True
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
