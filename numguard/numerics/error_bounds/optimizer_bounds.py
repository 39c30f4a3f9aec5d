"""Rounding bounds of one step of Adam, AdamW and SGD as a fused kernel takes it.

Every function works on float64 arrays and takes ``xp``, the namespace that computes (NumPy or torch), first. Exact
values and error bounds are separate functions, because one set of values serves several models of rounding. The
models are standard: each operation errs by at most ``unit`` relative and ``tiny`` absolute (Higham, ASNA 2nd ed.,
section 2.2, equation 2.4, with ``tiny`` the smallest normal number because kernels may flush subnormals).
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NamedTuple

import torch

from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding

Array = Any  # a float64 numpy.ndarray or torch.Tensor, as ``xp`` says

DOUBLE: Final = UNIT_ROUNDOFF[torch.float64]
STEP_POWER: Final = 4.0 * DOUBLE  # error of 1 - beta**t: two powers within an ulp each, operator's and shadow's


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounding:
    """What one implementation rounds to.

    Parameters
    ----------
    unit
        Unit roundoff of the arithmetic, with that of the float64 shadow added: both make the same roundings.
    constant
        Additional relative error of scalars (betas, learning rate, decay) that are stored in the tensors' dtype.
    constant_floor
        The same in absolute terms, where such a scalar is subnormal.
    store
        Unit roundoff of a rounding before the output rounding: that of the arithmetic where the output is narrower,
        zero where the last operation rounds to the output itself.
    tiny
        Smallest normal number of the arithmetic: the largest error where results underflow.
    largest
        A quarter of the largest number of the arithmetic; intermediates above it may overflow.
    """

    unit: float
    constant: float = 0.0
    constant_floor: float = 0.0
    store: float = 0.0
    tiny: float
    largest: float


def rounding_of(dtype: torch.dtype, *, constants_in_dtype: bool = False) -> Rounding:
    """Return the rounding of elementwise kernels that store ``dtype``.

    Parameters
    ----------
    dtype
        float64, float32, float16 or bfloat16; the last two compute in float32.
    constants_in_dtype
        True for kernels that round a scalar, or its product with a tensor, to the 16-bit dtype first, as ``add``
        with ``alpha`` does on the CPU.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    narrow = dtype != wide
    lenient = narrow and constants_in_dtype
    return Rounding(
        unit=UNIT_ROUNDOFF[wide] + DOUBLE,
        constant=UNIT_ROUNDOFF[dtype] if lenient else 0.0,
        constant_floor=smallest_rounding(dtype) if lenient else 0.0,
        store=UNIT_ROUNDOFF[wide] if narrow else 0.0,
        tiny=float(torch.finfo(wide).smallest_normal),
        largest=float(torch.finfo(wide).max) / 4.0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamSettings:
    """Hyperparameters of a step; ``lr`` may be a 0-dim float64 array."""

    lr: Array
    beta1: float
    beta2: float
    weight_decay: float
    eps: float
    amsgrad: bool
    maximize: bool
    decoupled: bool


class AdamState(NamedTuple):
    """What a step reads: arrays of one shape; ``scale`` and ``step`` broadcast to it.

    ``scale`` is None where gradients are not scaled, ``max_exp_avg_sq`` without ``amsgrad``.
    """

    param: Array
    grad: Array
    exp_avg: Array
    exp_avg_sq: Array
    max_exp_avg_sq: Array
    step: Array
    scale: Array = None


class AdamValues(NamedTuple):
    """Exact results and the intermediates that their bounds need."""

    param: Array
    exp_avg: Array
    exp_avg_sq: Array
    max_exp_avg_sq: Array
    grad: Array
    direction: Array
    decayed: Array
    denominator: Array
    update: Array
    step_size: Array
    corrections: tuple[Array, Array]


class AdamErrors(NamedTuple):
    """Bounds on the errors before output rounding, in the order of the results."""

    param: Array
    exp_avg: Array
    exp_avg_sq: Array
    grad: Array


def adam_values(xp: ModuleType, state: AdamState, s: AdamSettings) -> AdamValues:
    """Return what one step of Adam or AdamW makes of exact arithmetic.

    Parameters
    ----------
    xp
        ``numpy`` or ``torch``.
    state
        Float64 arrays of one shape.
    s
        Hyperparameters.
    """
    p, m, v = state.param, state.exp_avg, state.exp_avg_sq
    grad = state.grad if state.scale is None else state.grad / state.scale
    g = -grad if s.maximize else grad
    decayed = p
    if s.weight_decay != 0.0:
        if s.decoupled:
            decayed = p * (1.0 - s.lr * s.weight_decay)
        else:
            g = g + p * s.weight_decay
    weight = 1.0 - s.beta1
    m = m + weight * (g - m) if weight < 0.5 else g - (1.0 - weight) * (g - m)
    v = s.beta2 * v + (1.0 - s.beta2) * g * g
    largest = xp.maximum(state.max_exp_avg_sq, v) if s.amsgrad else v
    corrections = (1.0 - s.beta1**state.step, 1.0 - s.beta2**state.step)
    step_size = s.lr / corrections[0]
    denominator = xp.sqrt(largest) / xp.sqrt(corrections[1]) + s.eps
    # Zero by zero is judged by its infinite bound; a NaN of the inputs must stay one, hence != and not >.
    update = xp.where(denominator != 0.0, m / denominator, 0.0)
    param = decayed - step_size * update
    return AdamValues(param, m, v, largest, grad, g, decayed, denominator, update, step_size, corrections)


def _gradient_error(state: AdamState, values: AdamValues, s: AdamSettings, r: Rounding) -> tuple[Array, Array]:
    """Bound the error of the unscaled gradient and of the direction made from it; 0.0 where both are exact."""
    stored: Array = 0.0
    if state.scale is not None:
        stored = 2.0 * r.unit * abs(values.grad) + r.tiny
    if s.decoupled or s.weight_decay == 0.0:
        return stored, stored
    decay = 2.0 * r.unit * abs(s.weight_decay)
    return stored, stored + decay * abs(state.param) + r.unit * abs(values.direction) + r.tiny


def adam_errors(xp: ModuleType, state: AdamState, values: AdamValues, s: AdamSettings, r: Rounding) -> AdamErrors:
    """Bound the rounding errors of one step.

    Notes
    -----
    With ``w = 1 - beta1``, ``g`` the direction, primes for new values and ``u = r.unit``: the moment errs by at most
    ``4u(|m| + w|g|)`` both as ``lerp`` and as a sum of products, the second moment by ``5u v'``, the denominator
    ``d = sqrt(v')/sqrt(1 - beta2**t) + eps`` by ``e_v / sqrt(max(v', e_v))`` over the root of the correction plus
    ``4u d``, since ``|sqrt(a) - sqrt(b)| <= min(sqrt|a - b|, |a - b| / sqrt(a))``. The quotient ``m'/d`` then errs by
    ``e_m / d`` and by ``q = rho / (1 - rho)`` relative, ``rho`` the relative error of ``d``. The cancellation of
    ``m + w(g - m)`` thus enters ``param`` through ``e_m / d`` and nowhere else. Where an intermediate may overflow,
    or where ``rho`` reaches one half, the bound is infinite.
    """
    u = r.unit
    weight = 1.0 - s.beta1
    e_stored, e_g = _gradient_error(state, values, s, r)
    abs_g, abs_m = abs(values.direction), abs(state.exp_avg)
    span = abs_g + abs_m
    e_m = 4.0 * u * (abs_m + weight * abs_g) + weight * e_g + 4.0 * r.tiny
    e_v = 5.0 * u * values.exp_avg_sq + r.tiny * (4.0 + abs_g)
    square = abs_g * abs_g
    if not isinstance(e_g, float):
        e_v = e_v + 2.0 * (1.0 - s.beta2) * (abs_g + e_g) * e_g
    e_m = xp.where(span < r.largest, e_m, xp.inf)
    e_v = xp.where(square < r.largest, e_v, xp.inf)

    d = values.denominator
    first, second = (STEP_POWER / abs(correction) for correction in values.corrections)
    e_root = e_v / xp.sqrt(xp.maximum(values.max_exp_avg_sq, e_v)) / xp.sqrt(values.corrections[1])
    rho = e_root / d + (4.0 * u + second)
    q = xp.where(rho < 0.5, rho / (1.0 - rho), xp.inf)
    size, update = abs(values.step_size), abs(values.update)
    e_param = (size * e_m + r.tiny) * (1.0 + q) / d + size * update * (4.0 * u + first + q) + 3.0 * r.tiny
    if s.decoupled and s.weight_decay != 0.0:
        e_param = e_param + 2.0 * u * abs(values.decayed) + 3.0 * u * abs(s.lr * s.weight_decay) * abs(state.param)
    if r.store:
        e_param = e_param + r.store * abs(values.param)
    return AdamErrors(xp.where(update * (1.0 + size * d) < r.largest, e_param, xp.inf), e_m, e_v, e_stored)


@dataclass(frozen=True, kw_only=True, slots=True)
class SgdSettings:
    """Hyperparameters of a step; ``lr`` may be a 0-dim float64 array."""

    lr: Array
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    is_first_step: bool


class SgdState(NamedTuple):
    """What a step reads; ``buffer`` is None without momentum and unread at the first step."""

    param: Array
    grad: Array
    buffer: Array
    scale: Array = None


class SgdValues(NamedTuple):
    """Exact results with, or followed by, the bounds on their errors before output rounding."""

    param: Array
    buffer: Array
    grad: Array


def sgd_step(state: SgdState, s: SgdSettings, r: Rounding, xp: ModuleType) -> tuple[SgdValues, SgdValues]:
    """Return what one step of SGD makes of exact arithmetic, and the bounds on its errors.

    Notes
    -----
    Every product with a constant errs by ``2u`` (the constant's own rounding and the product's) and every sum by
    ``u`` of its result; errors of the direction pass on with the factor that multiplies it.
    """
    u = r.unit
    grad = state.grad if state.scale is None else state.grad / state.scale
    e_stored: Array = 0.0 * abs(grad) if state.scale is None else 2.0 * u * abs(grad) + r.tiny
    d, e_d = (-grad if s.maximize else grad), e_stored
    if s.weight_decay != 0.0:
        decayed = s.weight_decay * state.param
        d = d + decayed
        e_d = e_d + 2.0 * u * abs(decayed) + u * abs(d) + r.tiny
    buffer, e_buffer = d, e_d
    if s.momentum != 0.0:
        if not s.is_first_step:
            kept, added = s.momentum * state.buffer, (1.0 - s.dampening) * d
            e_buffer = 3.0 * u * (abs(kept) + abs(added)) + abs(1.0 - s.dampening) * e_d + 2.0 * r.tiny
            e_buffer = xp.where(abs(kept) + abs(added) < r.largest, e_buffer, xp.inf)
            buffer = kept + added
        ahead = s.momentum * buffer
        if s.nesterov:
            e_d = e_d + abs(s.momentum) * e_buffer + 3.0 * u * abs(ahead)
            d = d + ahead
            e_d = e_d + u * abs(d) + r.tiny
        else:
            d, e_d = buffer, e_buffer
    move = s.lr * d
    param = state.param - move
    size = abs(s.lr)
    e_param = size * e_d + 2.0 * u * abs(move) + r.store * abs(param) + 2.0 * r.tiny
    e_param = xp.where(abs(d) + abs(move) < r.largest, e_param, xp.inf)
    return SgdValues(param, buffer, grad), SgdValues(e_param, e_buffer, e_stored)
