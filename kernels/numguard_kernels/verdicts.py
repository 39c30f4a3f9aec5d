"""The verdict on a result from two shadows, reached and stored on the device: the host is never waited for."""

import math
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.element_formats import element_format, widened
from numguard_kernels.launching import launch, num_lanes
from numguard_kernels.output_rounding import output_constants, rounded_bound
from numguard_kernels.sample_tensors import FLOATING_DTYPES, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.verdict_ring import FIELDS, VerdictRing

NUM_THREADS: Final = 128
LANES_PER_THREAD: Final = 1

#: Both shadows say that an element is outside the bound: a wrong result, confirmed.
WRONG: Final = tl.constexpr(1)
#: Only one of them does.
SUSPECTED: Final = tl.constexpr(2)
#: The shadows are farther apart than their own errors allow: one of them is broken, and nothing follows for the result.
SHADOWS_DISAGREE: Final = tl.constexpr(4)
#: Elements whose correct result may overflow, or whose shadow is not finite: not judged.
INDETERMINATE: Final = tl.constexpr(8)

_SECOND_ORDER: Final = tl.constexpr(1.0 + 2.0**-8)
_SHADOW_ROUNDINGS: Final = tl.constexpr(2.0**-51)


class DeviceVerdict(NamedTuple):
    """One verdict.

    Attributes
    ----------
    numbers
        float64, the fields of :data:`~numguard_kernels.verdict_ring.FIELDS`; the worst element is the one with the
        largest ratio of error to bound, of the smaller of the two ratios.
    """

    numbers: Tensor


@triton.jit
def _bound(shadow, shadow_error, accumulated, UNIT: tl.constexpr, SMALLEST: tl.constexpr):
    """The alarm threshold: accumulation, rounding of the output, and the shadow's own error."""
    own = shadow_error + _SHADOW_ROUNDINGS * tl.abs(shadow)
    grown = _SECOND_ORDER * accumulated
    return grown + UNIT * (tl.abs(shadow) + grown + own) + SMALLEST + own


@triton.jit
def _ratio(computed, shadow, bound):
    """Error over bound; infinite where the result is not finite."""
    difference = tl.abs(computed - shadow)
    share = difference / bound
    return tl.where(difference <= bound, share, tl.where(share > 1.0, share, float("inf")))


@triton.jit
def judge_and_publish(
    computed_ptr,
    shadow_ptr,
    shadow_error_ptr,
    second_ptr,
    second_error_ptr,
    accumulated_ptr,
    rows_ptr,
    sequences_ptr,
    cursor_ptr,
    numbers_ptr,
    num_elements,
    site,
    capacity,
    CODE: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Judge every element, keep the worst, and write the verdict into the next slot of the ring: one program."""
    lane = tl.arange(0, LANES)
    worst = tl.full((LANES,), -1.0, tl.float64)
    index = tl.zeros((LANES,), tl.int64)
    wrong = tl.zeros((LANES,), tl.int64)
    suspected = tl.zeros((LANES,), tl.int64)
    indeterminate = tl.zeros((LANES,), tl.int64)
    apart = tl.zeros((LANES,), tl.int64)
    for first in range(0, num_elements, LANES):
        offset = lane.to(tl.int64) + first
        valid = offset < num_elements
        computed = widened(tl.load(computed_ptr + offset, mask=valid, other=0), CODE, True).to(tl.float64)
        shadow = tl.load(shadow_ptr + offset, mask=valid, other=0.0)
        second = tl.load(second_ptr + offset, mask=valid, other=0.0)
        shadow_error = tl.load(shadow_error_ptr + offset, mask=valid, other=0.0)
        second_error = tl.load(second_error_ptr + offset, mask=valid, other=0.0)
        accumulated = tl.load(accumulated_ptr + offset, mask=valid, other=0.0)
        bound = _bound(shadow, shadow_error, accumulated, UNIT, SMALLEST)
        second_bound = _bound(second, second_error, accumulated, UNIT, SMALLEST)
        judged = valid & (tl.abs(shadow) + bound < LARGEST) & (tl.abs(second) + second_bound < LARGEST)
        ratio = tl.where(judged, _ratio(computed, shadow, bound), 0.0)
        second_ratio = tl.where(judged, _ratio(computed, second, second_bound), 0.0)
        confirmed = tl.minimum(ratio, second_ratio)
        allowed = shadow_error + second_error + _SHADOW_ROUNDINGS * (tl.abs(shadow) + tl.abs(second))
        disagree = judged & (tl.abs(shadow - second) > allowed)
        wrong += ((confirmed > 1.0) & ~disagree).to(tl.int64)
        suspected += ((tl.maximum(ratio, second_ratio) > 1.0) & (confirmed <= 1.0)).to(tl.int64)
        indeterminate += (valid & ~judged).to(tl.int64)
        apart += disagree.to(tl.int64)
        confirmed = tl.where(valid, confirmed, -1.0)
        index = tl.where(confirmed > worst, offset, index)
        worst = tl.maximum(worst, confirmed)
    worst_ratio = tl.max(worst, 0)
    worst_index = tl.min(tl.where(worst == worst_ratio, index, num_elements), 0).to(tl.int64)
    num_wrong = tl.sum(wrong, 0)
    num_suspected = tl.sum(suspected, 0)
    num_indeterminate = tl.sum(indeterminate, 0)
    num_apart = tl.sum(apart, 0)
    shadow = tl.load(shadow_ptr + worst_index)
    bound = _bound(
        shadow, tl.load(shadow_error_ptr + worst_index), tl.load(accumulated_ptr + worst_index), UNIT, SMALLEST
    )
    flags = (
        (num_wrong > 0).to(tl.int64) * WRONG
        + (num_suspected > 0).to(tl.int64) * SUSPECTED
        + (num_apart > 0).to(tl.int64) * SHADOWS_DISAGREE
        + (num_indeterminate > 0).to(tl.int64) * INDETERMINATE
    )
    ticket = tl.atomic_add(cursor_ptr, 1).to(tl.int64)
    slot = ticket % capacity
    _write(
        rows_ptr + slot * WIDTH, numbers_ptr, site, flags, num_elements, num_wrong, num_suspected, num_indeterminate,
        worst_ratio, worst_index, widened(tl.load(computed_ptr + worst_index), CODE, True),
        shadow, tl.load(second_ptr + worst_index), bound,
    )  # fmt: skip
    # Whoever sees the number sees the row: all threads have stored, and the exchange releases.
    tl.debug_barrier()
    tl.atomic_xchg(sequences_ptr + slot, ticket + 1, sem="release")


@triton.jit
def _write(row_ptr, numbers_ptr, a, b, c, d, e, f, g, h, i, j, k, m):
    """Store the twelve numbers in both places, in the order of the fields."""
    _store_both(row_ptr, numbers_ptr, 0, a)
    _store_both(row_ptr, numbers_ptr, 1, b)
    _store_both(row_ptr, numbers_ptr, 2, c)
    _store_both(row_ptr, numbers_ptr, 3, d)
    _store_both(row_ptr, numbers_ptr, 4, e)
    _store_both(row_ptr, numbers_ptr, 5, f)
    _store_both(row_ptr, numbers_ptr, 6, g)
    _store_both(row_ptr, numbers_ptr, 7, h)
    _store_both(row_ptr, numbers_ptr, 8, i)
    _store_both(row_ptr, numbers_ptr, 9, j)
    _store_both(row_ptr, numbers_ptr, 10, k)
    _store_both(row_ptr, numbers_ptr, 11, m)


@triton.jit
def _store_both(row_ptr, numbers_ptr, place, value):
    value = tl.cast(value, tl.float64)  # a size or site of one is a constant, and not a tensor
    tl.store(row_ptr + place, value)
    tl.store(numbers_ptr + place, value)


def publish_verdict(
    computed: Tensor,
    shadow: Tensor,
    second: Tensor,
    accumulated: Tensor,
    *,
    shadow_error: Tensor,
    second_error: Tensor,
    ring: VerdictRing | None = None,
    site: int = 0,
) -> DeviceVerdict:
    """Judge results against two different shadows and put the verdict into a ring, without a host synchronisation.

    Parameters
    ----------
    computed
        Results of an operation, any real floating-point dtype, at least one: totals and rows of a reduction.
    shadow, second
        float64, of the same number of elements: the exact values by two routes that share no order of additions.
    accumulated
        float64: bound on the error of a correct implementation before its output is rounded.
    shadow_error, second_error
        float64: bounds on the errors of the shadows.
    ring
        Where the verdict goes; a ring of its own by default.
    site
        What the caller knows the operation by, below 2**53.

    Raises
    ------
    ValueError
        Where the tensors have different sizes, or none.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    With unit roundoff u and half the smallest subnormal eta of the output, own error e and accumulated bound E,
    ``B = E' + u (|r| + E' + e) + eta + e`` where ``E' = (1 + 2**-8) E`` covers products of first-order terms and e
    includes ``2**-51 |r|`` for the shadow's own last operations. An element is wrong where both shadows put it outside
    their B and the shadows agree with one another. Elements for which ``|r| + B`` reaches the largest finite number
    are not judged.
    """
    form = element_format(computed.dtype, "publish_verdict")
    tensors = (computed, shadow, shadow_error, second, second_error, accumulated)
    if len({x.numel() for x in tensors}) != 1 or not computed.numel():
        raise ValueError(
            f"publish_verdict got {[x.numel() for x in tensors]} elements: give equally many, at least one"
        )
    device = require("publish_verdict", *(x.device for x in tensors))
    ring = VerdictRing(1, device) if ring is None else ring
    numbers = torch.empty(len(FIELDS), dtype=torch.float64, device=device)
    launch(
        judge_and_publish,
        (1,),
        form.stored(computed.detach().contiguous()),
        *(x.detach().to(torch.float64).contiguous() for x in tensors[1:]),
        ring.rows,
        ring.sequences,
        ring.cursor,
        numbers,
        computed.numel(),
        site,
        ring.capacity,
        CODE=form.code,
        **output_constants(computed.dtype),
        LANES=LANES_PER_THREAD * num_lanes(NUM_THREADS, device),
        WIDTH=len(FIELDS),
        num_threads=NUM_THREADS,
        device=device,
    )
    return DeviceVerdict(numbers)


def reference_verdict(
    computed: Tensor,
    shadow: Tensor,
    second: Tensor,
    accumulated: Tensor,
    *,
    shadow_error: Tensor,
    second_error: Tensor,
    ring: VerdictRing | None = None,
    site: int = 0,
) -> DeviceVerdict:
    """Return what :func:`publish_verdict` returns, by plain torch; nothing is put into a ring."""
    del ring
    wide, shadow, second = computed.double().reshape(-1), shadow.reshape(-1), second.reshape(-1)
    constants = output_constants(computed.dtype)

    def judged_by(value: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        bound = rounded_bound(value, accumulated * (1.0 + 2.0**-8), error + value.abs() * 2.0**-51, constants)
        difference = (wide - value).abs()
        share = difference / bound
        ratio = torch.where(difference <= bound, share, torch.where(share > 1.0, share, math.inf))
        return ratio, bound

    ratio, bound = judged_by(shadow, shadow_error)
    second_ratio, second_bound = judged_by(second, second_error)
    judged = (shadow.abs() + bound < constants["LARGEST"]) & (second.abs() + second_bound < constants["LARGEST"])
    ratio, second_ratio = torch.where(judged, ratio, 0.0), torch.where(judged, second_ratio, 0.0)
    confirmed = torch.minimum(ratio, second_ratio)
    allowed = shadow_error + second_error + 2.0**-51 * (shadow.abs() + second.abs())
    apart = judged & ((shadow - second).abs() > allowed)
    wrong = (confirmed > 1.0) & ~apart
    suspected = (torch.maximum(ratio, second_ratio) > 1.0) & (confirmed <= 1.0)
    worst = int((confirmed == confirmed.max()).nonzero()[0])
    flags = sum(
        bit.value * bool(found.any())
        for bit, found in ((WRONG, wrong), (SUSPECTED, suspected), (SHADOWS_DISAGREE, apart), (INDETERMINATE, ~judged))
    )
    numbers = [site, flags, wide.numel(), wrong.sum(), suspected.sum(), (~judged).sum(), confirmed[worst], worst]
    numbers += [wide[worst], shadow[worst], second[worst], bound[worst]]
    return DeviceVerdict(torch.tensor([float(number) for number in numbers], dtype=torch.float64))


def _case(dtype: torch.dtype, content: str, count: int = 21) -> Case:
    def make(device: torch.device) -> Arguments:
        exact = sample((count,), torch.float64, "ordinary") * (
            torch.finfo(dtype).max / 2 if content == "largest" else 1
        )
        computed = exact.clone()
        if content == "wrong":
            computed[count // 3] *= 1.5
        if content == "nan":
            computed[-1] = math.nan
        second = exact.clone()
        if content == "shadows":
            second[0] += 1.0
        if content == "indeterminate":
            exact[1] = math.inf
        errors = exact.abs() * 2.0**-30
        arguments = (
            computed.to(torch.float32).to(dtype) if dtype != torch.float64 else computed,
            exact,
            second,
            errors,
        )
        options: dict[str, Any] = {"shadow_error": errors / 8, "second_error": errors / 64}
        options = {name: value.to(device) for name, value in options.items()}
        return tuple(value.to(device) for value in arguments), {**options, "site": 7}

    return Case(name=case_name(dtype, content), make=make)


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    exact = torch.randn(num_elements, dtype=torch.float64, device=device)
    errors = exact.abs() * 2.0**-30
    return (exact.to(dtype), exact, exact, errors), {"shadow_error": errors, "second_error": errors}


def _signature() -> dict[str, str]:
    doubles = (
        "shadow_ptr",
        "shadow_error_ptr",
        "second_ptr",
        "second_error_ptr",
        "accumulated_ptr",
        "rows_ptr",
        "numbers_ptr",
    )
    signature = {"computed_ptr": "*fp32"} | dict.fromkeys(doubles, "*fp64")
    signature |= {
        "sequences_ptr": "*i64",
        "cursor_ptr": "*i64",
        "num_elements": "i64",
        "site": "i64",
        "capacity": "i64",
    }
    return signature


SPEC: Final = KernelSpec(
    name="publish_verdict",
    launcher=publish_verdict,
    reference=reference_verdict,
    tolerance=lambda expected, *_args, **_options: {"numbers": expected.numbers.abs().nan_to_num(0.0, 0.0) * 2.0**-49},
    cases=(
        *[
            _case(dtype, content)
            for dtype in (torch.float32, torch.bfloat16)
            for content in ("right", "wrong", "nan", "shadows")
        ],
        *[_case(dtype, "right", 3) for dtype in FLOATING_DTYPES],
        _case(torch.float32, "indeterminate"),
        _case(torch.float16, "largest", 1),
    ),
    compilations=(
        Compilation(
            name="fp32 results",
            function=judge_and_publish,
            signature=_signature(),
            constexprs={
                "CODE": 0,
                **output_constants(torch.float32),
                "LANES": NUM_THREADS * LANES_PER_THREAD,
                "WIDTH": len(FIELDS),
            },
            num_threads=NUM_THREADS,
            elements_per_turn=NUM_THREADS * LANES_PER_THREAD,
            bytes_per_element=44.0,
            fused_per_element=None,
            vector_loads=False,
            limits={"sm_90": Limits(instructions_per_element=201.6, registers=70)},
        ),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda computed, *_args, **_options: computed.numel() * (computed.element_size() + 40),
    flops=lambda computed, *_args, **_options: computed.numel() * 40,
    dtypes=(torch.float32,),
    rivals={"torch": reference_verdict},
)
