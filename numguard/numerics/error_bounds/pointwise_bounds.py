"""Rounding bounds of the elementwise operators that an unfused optimizer step consists of.

Each operator is one exact formula and one bound over the same operands. Formulas use Python's operators and ``where``
only, so that NumPy evaluates them as well as torch and no operator of torch is its own shadow; bounds follow the models
of :class:`~numguard.numerics.error_bounds.optimizer_bounds.Rounding`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final, NamedTuple

from numguard.numerics.error_bounds.optimizer_bounds import Rounding

Array = Any  # a float64 numpy.ndarray or torch.Tensor


class Operands(NamedTuple):
    """The operands of one operator, as float64 arrays that broadcast against each other.

    Attributes
    ----------
    terms
        The tensors, ``self`` first. For ``add`` and the like a scalar operand stands here as well.
    factor
        ``alpha``, ``value`` or ``weight``; 1.0 where there is none.
    has_constant
        True where a term is a scalar, which kernels may round before they use it.
    """

    terms: tuple[Array, ...]
    factor: Array = 1.0
    has_constant: bool = False


class PointwiseRule(NamedTuple):
    """One operator: its value, the bound on its error before output rounding, and whether it only selects."""

    num_terms: int
    value: Callable[[ModuleType, Operands], Array]
    error: Callable[[ModuleType, Operands, Array, Rounding], Array]
    rounds: bool = True


def _finite_intermediates(xp: ModuleType, magnitude: Array, r: Rounding, error: Array) -> Array:
    return xp.where(magnitude < r.largest, error, xp.inf)


def _sum_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    term = abs(x.factor * x.terms[1])
    error = r.store * abs(value) + r.tiny
    if x.has_constant or not (isinstance(x.factor, float) and abs(x.factor) == 1.0):
        error = error + (2.0 * r.unit + 2.0 * r.constant) * term
        error = error + r.constant_floor * (1.0 + abs(x.factor) + abs(x.terms[1]))
    return _finite_intermediates(xp, term, r, error)


def _product_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    error = r.store * abs(value) + r.tiny
    if x.has_constant:
        error = error + (2.0 * r.unit + 2.0 * r.constant) * abs(value) + r.constant_floor * abs(x.terms[0])
    return error


def _quotient_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    """A constant divisor may be turned into its reciprocal first: two more roundings."""
    error = r.store * abs(value) + r.tiny
    if x.has_constant:
        divisor = abs(x.terms[1])
        relative = 3.0 * r.unit + 2.0 * r.constant + r.constant_floor / divisor
        error = error + xp.where((divisor < r.largest) & (1.0 / divisor < r.largest), relative, xp.inf) * abs(value)
    return error


def _lerp(xp: ModuleType, x: Operands) -> Array:
    start, end = x.terms
    low = start + x.factor * (end - start)
    if isinstance(x.factor, float):
        return low if abs(x.factor) < 0.5 else end - (end - start) * (1.0 - x.factor)
    return xp.where(abs(x.factor) < 0.5, low, end - (end - start) * (1.0 - x.factor))


def _lerp_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    """Both forms of the interpolation: the difference, the weight, its complement, and one product."""
    start, end = x.terms
    gap = abs(end - start)
    mass = abs(x.factor) + abs(1.0 - x.factor) * (abs(x.factor) >= 0.5)
    error = (4.0 * r.unit + 2.0 * r.constant) * mass * gap + r.constant_floor * gap
    error = error + r.store * abs(value) + 3.0 * r.tiny
    return _finite_intermediates(xp, abs(start) + abs(end), r, error)


def _addcmul_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    _, a, b = x.terms
    abs_a, abs_b = abs(a), abs(b)
    pair, scaled = abs_a * abs_b, abs(x.factor) * abs_a
    error = (4.0 * r.unit + 3.0 * r.constant) * scaled * abs_b + r.constant_floor * (1.0 + pair + abs_a + abs_b)
    error = error + r.store * abs(value) + r.tiny * (2.0 + abs_a + abs_b + abs(x.factor))
    return _finite_intermediates(xp, pair + scaled + scaled * abs_b, r, error)


def _addcdiv_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    _, a, b = x.terms
    abs_a, inverse = abs(a), 1.0 / abs(b)
    quotient, scaled = abs_a * inverse, abs(x.factor) * abs_a
    error = (4.0 * r.unit + 3.0 * r.constant) * scaled * inverse + r.constant_floor * (1.0 + quotient + inverse)
    error = error + r.store * abs(value) + r.tiny * (2.0 + inverse + abs(x.factor))
    return _finite_intermediates(xp, quotient + scaled + scaled * inverse, r, error)


def _root_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    """Within one ulp (measured 1.5 u on this kind of kernel); a subnormal operand may be read as zero."""
    relative = xp.where(abs(x.terms[0]) < r.tiny, 1.0, 2.0 * r.unit + r.store)
    return relative * abs(value) + r.tiny


def _larger(xp: ModuleType, x: Operands) -> Array:
    first, second = x.terms
    return xp.where((first >= second) | (first != first), first, second)  # a NaN on either side stays


def _no_error(xp: ModuleType, x: Operands, value: Array, r: Rounding) -> Array:
    return 0.0


#: Operators by the name that their overloads share: ``add`` for ``add_.Tensor`` and ``_foreach_add_.List``.
RULES: Final[Mapping[str, PointwiseRule]] = MappingProxyType(
    {
        "add": PointwiseRule(2, lambda xp, x: x.terms[0] + x.factor * x.terms[1], _sum_error),
        "sub": PointwiseRule(2, lambda xp, x: x.terms[0] - x.factor * x.terms[1], _sum_error),
        "mul": PointwiseRule(2, lambda xp, x: x.terms[0] * x.terms[1], _product_error),
        "div": PointwiseRule(2, lambda xp, x: x.terms[0] / x.terms[1], _quotient_error),
        "lerp": PointwiseRule(2, _lerp, _lerp_error),
        "addcmul": PointwiseRule(3, lambda xp, x: x.terms[0] + x.factor * x.terms[1] * x.terms[2], _addcmul_error),
        "addcdiv": PointwiseRule(3, lambda xp, x: x.terms[0] + x.factor * x.terms[1] / x.terms[2], _addcdiv_error),
        "sqrt": PointwiseRule(1, lambda xp, x: x.terms[0] ** 0.5, _root_error),
        "maximum": PointwiseRule(2, _larger, _no_error, rounds=False),
        "neg": PointwiseRule(1, lambda xp, x: 0.0 - x.terms[0], _no_error, rounds=False),
    }
)
