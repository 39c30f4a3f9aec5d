"""Health of an optimizer step over many parameters in one pass: updates that rounding swallowed, non-finite, norms."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.element_formats import bf16_bits
from numguard_kernels.launching import launch, num_lanes
from numguard_kernels.pointers import is_aligned, pointer_table
from numguard_kernels.sample_tensors import random_vector, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.two_float import two_sum

NUM_THREADS: Final = 256
LANES: Final = 8
TURNS: Final = 8
MAX_MOMENTS: Final = 2
_TYPES: Final = {torch.float32: tl.float32, torch.bfloat16: tl.uint16, torch.float16: tl.float16}
# Partial results of a piece: two numbers of the step, then four of each list.
_STEP_FIELDS: Final = tl.constexpr(4)
_LIST_FIELDS: Final = tl.constexpr(4)
# Squares of these multiples stay in range where those of the numbers themselves do not.
_UP: Final = tl.constexpr(2.0**70)
_DOWN: Final = tl.constexpr(2.0**-70)


class UpdateHealth(NamedTuple):
    """Figures of each parameter tensor, on its device; lists are parameters, updates, then the moments.

    Attributes
    ----------
    num_updated
        int64, (tensors,): elements with a finite update other than zero.
    num_stagnant
        int64, (tensors,): those of them whose parameter stays what it was, because the sum rounds to it.
    update_mass, lost_mass
        float64, (tensors,): sums of magnitudes, of the finite updates and of what rounding took from them.
    num_nonfinite
        int64, (lists, tensors).
    norms
        float64, (lists, tensors): 2-norms, right over the whole range of the dtypes.
    """

    num_updated: Tensor
    num_stagnant: Tensor
    update_mass: Tensor
    lost_mass: Tensor
    num_nonfinite: Tensor
    norms: Tensor


@triton.jit
def _address(addresses_ptr, row, num_tensors, tensor, TYPE: tl.constexpr):
    address = tl.load(addresses_ptr + row * num_tensors + tensor).to(tl.pointer_type(TYPE))
    return tl.multiple_of(address, 16)


@triton.jit
def _loaded(values_ptr, offset, valid, TYPE: tl.constexpr, MASKED: tl.constexpr):
    if MASKED:
        stored = tl.load(values_ptr + offset, mask=valid, other=0)
    else:
        stored = tl.load(values_ptr + offset)
    if TYPE == tl.uint16:
        wide = (stored.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = stored.to(tl.float32)
    return wide


@triton.jit
def _rounded(x, TYPE: tl.constexpr):
    """Round fp32 to the parameter's format, to nearest and ties to even, and widen it again."""
    if TYPE == tl.uint16:
        x = (bf16_bits(x).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif TYPE == tl.float16:
        x = x.to(tl.float16).to(tl.float32)
    return x


@triton.jit
def _observe(x, nonfinite, squares, up, down):
    """Count what is not finite, and add squares at three scales, of which one neither overflows nor vanishes."""
    nonfinite += tl.sum((~(tl.abs(x) < float("inf"))).to(tl.int32), 1)
    larger, smaller = x * _UP, x * _DOWN
    return nonfinite, tl.fma(x, x, squares), tl.fma(larger, larger, up), tl.fma(smaller, smaller, down)


@triton.jit
def _store_list(partials_ptr, row, nonfinite, squares, up, down):
    place = partials_ptr + _STEP_FIELDS + row * _LIST_FIELDS
    tl.store(place, tl.sum(nonfinite, 0).to(tl.float32))
    tl.store(place + 1, tl.sum(tl.sum(squares, 1), 0))
    tl.store(place + 2, tl.sum(tl.sum(up, 1), 0))
    tl.store(place + 3, tl.sum(tl.sum(down, 1), 0))


@triton.jit
def observe_updates(
    addresses_ptr,
    sizes_ptr,
    pieces_ptr,
    order_ptr,
    partials_ptr,
    num_tensors,
    PARAMETER: tl.constexpr,
    UPDATE: tl.constexpr,
    MOMENT: tl.constexpr,
    MOMENTS: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
    TURNS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Health of one piece of one parameter: ``TURNS`` tiles of each list, each element read once."""
    piece = tl.load(order_ptr + tl.program_id(0))
    tensor = tl.load(pieces_ptr + 2 * piece)
    TILE: tl.constexpr = THREADS * LANES
    first = tl.load(pieces_ptr + 2 * piece + 1) * (TILE * TURNS)
    first = tl.multiple_of(first, 16 if LANES > 1 else 1)
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    size = tl.load(sizes_ptr + tensor)
    partials_ptr += piece * (_STEP_FIELDS + (2 + MOMENTS) * _LIST_FIELDS)

    parameter_ptr = _address(addresses_ptr, 0, num_tensors, tensor, PARAMETER)
    update_ptr = _address(addresses_ptr, 1, num_tensors, tensor, UPDATE)
    updated = tl.zeros((THREADS,), tl.int32)
    stagnant = tl.zeros((THREADS,), tl.int32)
    mass = tl.zeros((THREADS,), tl.float32)
    lost_mass = tl.zeros((THREADS,), tl.float32)
    p_nonfinite = tl.zeros((THREADS,), tl.int32)
    u_nonfinite = tl.zeros((THREADS,), tl.int32)
    p_squares = tl.zeros((THREADS, LANES), tl.float32)
    p_up = tl.zeros((THREADS, LANES), tl.float32)
    p_down = tl.zeros((THREADS, LANES), tl.float32)
    u_squares = tl.zeros((THREADS, LANES), tl.float32)
    u_up = tl.zeros((THREADS, LANES), tl.float32)
    u_down = tl.zeros((THREADS, LANES), tl.float32)
    for turn in range(TURNS):
        offset = first + turn * TILE + inside
        valid = offset < size
        parameter = _loaded(parameter_ptr, offset, valid, PARAMETER, MASKED)
        update = _loaded(update_ptr, offset, valid, UPDATE, MASKED)
        total, error = two_sum(parameter, update)
        after = _rounded(total, PARAMETER)
        # Finite after the step: then parameter and update were finite too.
        counts = (tl.abs(after) < float("inf")) & (update != 0)
        updated += tl.sum(counts.to(tl.int32), 1)
        stagnant += tl.sum((counts & (after == parameter)).to(tl.int32), 1)
        mass += tl.sum(tl.where(counts, tl.abs(update), 0.0), 1)
        lost_mass += tl.sum(tl.where(counts, tl.abs((total - after) + error), 0.0), 1)
        p_nonfinite, p_squares, p_up, p_down = _observe(parameter, p_nonfinite, p_squares, p_up, p_down)
        u_nonfinite, u_squares, u_up, u_down = _observe(update, u_nonfinite, u_squares, u_up, u_down)
    tl.store(partials_ptr, tl.sum(updated, 0).to(tl.float32))
    tl.store(partials_ptr + 1, tl.sum(stagnant, 0).to(tl.float32))
    tl.store(partials_ptr + 2, tl.sum(mass, 0))
    tl.store(partials_ptr + 3, tl.sum(lost_mass, 0))
    _store_list(partials_ptr, 0, p_nonfinite, p_squares, p_up, p_down)
    _store_list(partials_ptr, 1, u_nonfinite, u_squares, u_up, u_down)

    for moment in tl.static_range(MOMENTS):
        moment_ptr = _address(addresses_ptr, 2 + moment, num_tensors, tensor, MOMENT)
        nonfinite = tl.zeros((THREADS,), tl.int32)
        squares = tl.zeros((THREADS, LANES), tl.float32)
        up = tl.zeros((THREADS, LANES), tl.float32)
        down = tl.zeros((THREADS, LANES), tl.float32)
        for turn in range(TURNS):
            offset = first + turn * TILE + inside
            values = _loaded(moment_ptr, offset, offset < size, MOMENT, MASKED)
            nonfinite, squares, up, down = _observe(values, nonfinite, squares, up, down)
        _store_list(partials_ptr, 2 + moment, nonfinite, squares, up, down)


@triton.jit
def combine_pieces(
    partials_ptr, firsts_ptr, totals_ptr, FIELDS: tl.constexpr, WIDTH: tl.constexpr, PIECES: tl.constexpr
):
    """Add the partial results of every tensor's pieces, in float64 and in a fixed order."""
    tensor = tl.program_id(0).to(tl.int64)
    first = tl.load(firsts_ptr + tensor)
    last = tl.load(firsts_ptr + tensor + 1)
    fields = tl.arange(0, WIDTH)
    totals = tl.zeros((WIDTH,), tl.float64)
    for start in range(first, last, PIECES):
        pieces = start + tl.arange(0, PIECES)
        valid = (pieces < last)[:, None] & (fields < FIELDS)[None, :]
        found = tl.load(partials_ptr + pieces[:, None] * FIELDS + fields[None, :], mask=valid, other=0.0)
        totals += tl.sum(found.to(tl.float64), 0)
    tl.store(totals_ptr + tensor * FIELDS + fields, totals, mask=fields < FIELDS)


def update_health(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], moments: Sequence[Sequence[Tensor]] = ()
) -> UpdateHealth:
    """Return the health of the step ``parameter + update`` for every tensor, from one read of each list.

    Parameters
    ----------
    parameters
        Before the step; all of one dtype: float32, bfloat16 or float16.
    updates
        What is added, of the same shapes; of one dtype.
    moments
        Up to two further lists of the same shapes (first and second moments), of one dtype.

    Raises
    ------
    TypeError
        For other dtypes, or several in one list: call once for each combination.
    ValueError
        Where lists or shapes do not correspond.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    The sum is formed in fp32 and rounded to the parameter's dtype, as optimizers do; what is lost is exact for each
    element (TwoSum), and masses and squares are added in fp32 within a piece of 16384 elements and in fp64 between
    pieces: relative error at most ``(8 + 7 + 8 + 1) 2**-24`` of each sum of magnitudes or squares, for the turns, the
    lanes, the threads and the squaring (Higham, ASNA 2nd ed., section 4.2). Full pieces and the ends of tensors are two
    launches, so that the former load 16 bytes at a time. Tensors that are not contiguous or not aligned to 16 bytes are
    copied first.
    """
    lists = [list(parameters), list(updates), *[list(entry) for entry in moments]]
    _require_correspondence(lists)
    if not lists[0]:
        return _health(torch.zeros((0, 4 + 4 * len(lists)), dtype=torch.float64), len(lists))
    device = require("update_health", *(x.device for entry in lists for x in entry))
    types = [_type_of(entry) for entry in lists]
    ready = [[_ready(x) for x in entry] for entry in lists]
    threads = num_lanes(NUM_THREADS, device)
    elements_per_piece = threads * LANES * TURNS
    table = pointer_table(ready, elements_per_piece=elements_per_piece)
    num_fields = 4 + 4 * len(lists)
    partials = torch.empty((table.num_pieces, num_fields), dtype=torch.float32, device=device)
    for masked, order in ((False, table.full), (True, table.partial)):
        if not order.numel():
            continue
        launch(
            observe_updates,
            (order.numel(),),
            table.addresses,
            table.sizes,
            table.pieces,
            order,
            partials,
            len(ready[0]),
            PARAMETER=types[0],
            UPDATE=types[1],
            MOMENT=types[2] if moments else types[0],
            MOMENTS=len(moments),
            THREADS=threads,
            LANES=LANES,
            TURNS=TURNS,
            MASKED=masked,
            num_threads=NUM_THREADS,
            device=device,
        )
    counts = [-(-x.numel() // elements_per_piece) for x in ready[0]]
    firsts = torch.tensor([0, *counts]).cumsum(0).to(device)
    totals = torch.empty((len(counts), num_fields), dtype=torch.float64, device=device)
    launch(
        combine_pieces,
        (len(counts),),
        partials,
        firsts,
        totals,
        FIELDS=num_fields,
        WIDTH=16 if num_fields <= 16 else 32,
        PIECES=32,
        num_threads=128,
        device=device,
    )
    return _health(totals, len(lists))


def _health(totals: Tensor, num_lists: int) -> UpdateHealth:
    """Choose for each norm the scale at which the squares neither overflowed nor vanished."""
    by_list = totals[:, 4:].reshape(-1, num_lists, 4).permute(2, 1, 0)
    nonfinite, squares, up, down = by_list
    norms = torch.where(up.isfinite(), up.sqrt() * _DOWN.value, squares.sqrt())
    norms = torch.where(up.isfinite() | squares.isfinite(), norms, down.sqrt() * _UP.value)
    return UpdateHealth(
        num_updated=totals[:, 0].long(),
        num_stagnant=totals[:, 1].long(),
        update_mass=totals[:, 2].clone(),
        lost_mass=totals[:, 3].clone(),
        num_nonfinite=nonfinite.long(),
        norms=norms,
    )


def _require_correspondence(lists: list[list[Tensor]]) -> None:
    if len(lists) - 2 > MAX_MOMENTS:
        raise ValueError(f"update_health got {len(lists) - 2} lists of moments and takes at most {MAX_MOMENTS}")
    for entry in lists[1:]:
        shapes = [tuple(x.shape) for x in entry]
        expected = [tuple(x.shape) for x in lists[0]]
        if shapes != expected:
            raise ValueError(f"update_health got shapes {expected[:3]} beside {shapes[:3]}: give the lists pairwise")


def _type_of(entry: list[Tensor]) -> Any:
    dtypes = {x.dtype for x in entry}
    if len(dtypes) != 1 or not dtypes <= _TYPES.keys():
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise TypeError(
            f"update_health got a list of {names}: give lists of one dtype each, of float32, bfloat16 or float16"
        )
    return _TYPES[dtypes.pop()]


def _ready(x: Tensor) -> Tensor:
    flat = x.detach().contiguous().reshape(-1)
    flat = flat if is_aligned(flat) else flat.clone()
    return flat.view(torch.uint16) if flat.dtype is torch.bfloat16 else flat


def reference_health(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], moments: Sequence[Sequence[Tensor]] = ()
) -> UpdateHealth:
    """Return what :func:`update_health` returns, by plain torch in float64, tensor after tensor."""
    lists = [list(parameters), list(updates), *[list(entry) for entry in moments]]
    updated, stagnant, mass, lost = [], [], [], []
    for parameter, update in zip(parameters, updates, strict=True):
        after = (parameter.float() + update.float()).to(parameter.dtype)
        counts = update.isfinite() & (update != 0) & after.isfinite()
        change = parameter.double() + update.double() - after.double()
        updated.append(counts.sum())
        stagnant.append((counts & (after == parameter)).sum())
        mass.append(torch.where(counts, update.double().abs(), 0.0).sum())
        lost.append(torch.where(counts, change.abs(), 0.0).sum())
    nonfinite = torch.stack([torch.stack([(~x.isfinite()).sum() for x in entry]) for entry in lists])
    norms = torch.stack([torch.stack([x.double().square().sum().sqrt() for x in entry]) for entry in lists])
    return UpdateHealth(
        torch.stack(updated), torch.stack(stagnant), torch.stack(mass), torch.stack(lost), nonfinite, norms
    )


def _tolerance(
    expected: UpdateHealth, parameters: Sequence[Tensor], updates: Sequence[Tensor], *_: Any
) -> dict[str, Any]:
    """Twenty-four roundings in fp32; for what is lost also the reference's own rounding of ``parameter + update``."""
    factor = 24 * 2.0**-24
    reference = torch.stack(
        [
            (p.double().abs() + u.double().abs()).nan_to_num(0.0, 0.0).sum() * 2.0**-52
            for p, u in zip(parameters, updates, strict=True)
        ]
    )
    return {
        "update_mass": expected.update_mass * factor,
        "lost_mass": expected.lost_mass * factor + reference,
        "norms": expected.norms * factor + 2.0**-150,
    }


def _case(parameter: torch.dtype, update: torch.dtype, scale: float, content: str) -> Case:
    shapes = ((5,), (33, 3), (1,), (0,), (2, 137))

    def make(device: torch.device) -> Arguments:
        def made(dtype: torch.dtype, seed: int, factor: float) -> list[Tensor]:
            return [
                (sample(shape, dtype, content if shape[:1] == (2,) else "ordinary", seed=seed) * factor).to(device)
                for shape in shapes
            ]

        moments = [made(torch.float32, 3, 1e-3), made(torch.float32, 4, 1e-25)]
        return (made(parameter, 1, 1.0), made(update, 2, scale), moments), {}

    return Case(name=case_name(parameter, update, scale, content), make=make)


_THREE_SCALES: Final = "squares at three scales make norms right over the whole range, for 4 bytes an element in bf16"


def _compilation(
    name: str, parameter: Any, update: Any, num_bytes: float, limits: Limits, reason: str = ""
) -> Compilation:
    return Compilation(
        name=name,
        function=observe_updates,
        signature={
            "addresses_ptr": "*i64",
            "sizes_ptr": "*i64",
            "pieces_ptr": "*i64",
            "order_ptr": "*i64",
            "partials_ptr": "*fp32",
            "num_tensors": "i64",
        },
        constexprs={
            "PARAMETER": parameter,
            "UPDATE": update,
            "MOMENT": tl.float32,
            "MOMENTS": 2,
            "THREADS": NUM_THREADS,
            "LANES": LANES,
            "TURNS": TURNS,
            "MASKED": False,
        },
        num_threads=NUM_THREADS,
        elements_per_turn=NUM_THREADS * LANES,
        bytes_per_element=num_bytes,
        fused_per_element=6.0,
        issue_bound_because=reason,
        limits={"sm_90": limits},
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    parameter = [random_vector(num_elements, dtype, device)]
    update = [torch.randn(num_elements, device=device).mul_(1e-3).to(dtype)]
    return (parameter, update), {}


SPEC: Final = KernelSpec(
    name="update_health",
    launcher=update_health,
    reference=reference_health,
    tolerance=_tolerance,
    cases=(
        _case(torch.bfloat16, torch.float32, 1e-3, "ordinary"),
        _case(torch.bfloat16, torch.bfloat16, 1e-4, "both_infinities"),
        _case(torch.float32, torch.float32, 1e-8, "subnormal"),
        _case(torch.float16, torch.float32, 1e-3, "nan"),
        _case(torch.float32, torch.float32, 1e20, "zeros"),
        _case(torch.bfloat16, torch.float32, 1.0, "largest"),
    ),
    compilations=(
        _compilation("fp32", tl.float32, tl.float32, 8.0, Limits(instructions_per_element=42.79, registers=100)),
        _compilation(
            "bf16", tl.uint16, tl.uint16, 4.0, Limits(instructions_per_element=51.72, registers=103), _THREE_SCALES
        ),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda parameters, updates, moments=(): sum(
        x.numel() * x.element_size() for entry in (parameters, updates, *moments) for x in entry
    ),
    flops=lambda parameters, updates, moments=(): sum(x.numel() for x in parameters) * (16 + 6 * (2 + len(moments))),
    rivals={"torch": reference_health},
)
