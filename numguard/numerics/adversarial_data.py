"""Inputs on which inaccurate code shows: chosen condition numbers, and data of the kinds that break implementations.

Every generator is a function of its arguments alone: equal arguments give equal tensors, on every machine, and no
generator of the caller is read or advanced.
"""

import math
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.numerics.formats import FloatFormat, format_of, round_to_format

CLOSING_DIGITS: Final = 8  # the promised sum is met to 2**-8 of itself, or exactly


def ill_conditioned_sum(
    num_terms: int, condition_number: float, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Tensor:
    """Return terms whose sum has a chosen condition number ``sum|x| / |sum x|``.

    Parameters
    ----------
    num_terms
        Length of the result.
    condition_number
        At least 1; met to within 1 %, in exact arithmetic, to 1e30 and beyond where the format's range allows.
    dtype
        A signed floating-point dtype.
    seed
        Selects the data.

    Returns
    -------
    Tensor
        One dimension, shuffled. No partial sum, in whatever order, leaves the range of the format.

    Raises
    ------
    UsageError
        Where the format's range or the number of terms is too small for the condition number.

    Notes
    -----
    The idea of algorithm 6.1 of Ogita, Rump, Oishi (SIAM J. Sci. Comput. 26, 2005): terms whose exponents spread over
    half the digits to be cancelled, then terms that each cancel the leading digits of what is left, all in rational
    arithmetic. Here what is left is driven to a sum fixed in advance, so that the condition number is met closely.
    """
    target = _signed_format(dtype)
    digits = _digits(condition_number)
    closing = _num_closing(digits, num_terms, target)
    _require_terms(num_terms, closing + 2, condition_number)
    generator = random.Random(f"sum {seed}")
    room = target.max_exponent - num_terms.bit_length() - 2
    top = min(math.ceil(digits / 2), room)
    terms = [
        Fraction(_draw(generator, top - (digits / 2 * generator.random() if index else 0.0), target))
        for index in range(num_terms - closing)
    ]
    if condition_number == 1:
        return _shuffled([abs(term) for term in terms] + [Fraction(0)] * closing, generator, dtype)
    quantum = Fraction(target.smallest_subnormal)
    mass = sum(map(abs, terms), Fraction(0))
    rest = sum(terms, Fraction(0))
    if rest > 0:
        terms, rest = [-term for term in terms], -rest
    # The closing terms will total wanted - rest, so that sum|x| = mass - rest + wanted = condition_number * wanted.
    wanted = round((mass - rest) / (Fraction(condition_number) - 1) / quantum) * quantum
    if not 128 * quantum <= wanted <= Fraction(target.max_finite) / 4:
        raise UsageError(
            f"the range of {target.name} cannot hold {num_terms} terms with the condition number "
            f"{condition_number:.3g}; ask for another condition number, fewer terms, or a wider dtype"
        )
    rest -= wanted
    while len(terms) < num_terms and abs(rest) * 2**CLOSING_DIGITS > wanted:
        term = -_truncate(rest, target)
        terms.append(term)
        rest += term
    _fill(terms, num_terms, wanted, target)
    return _shuffled(terms, generator, dtype)


def ill_conditioned_dot(
    num_terms: int, condition_number: float, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return vectors whose inner product has a chosen condition number ``2 sum|x y| / |sum x y|``.

    Parameters
    ----------
    num_terms
        Length of both vectors.
    condition_number
        At least 4; met to within 2 %, in exact arithmetic.
    dtype
        A signed floating-point dtype.
    seed
        Selects the data.

    Returns
    -------
    tuple of Tensor
        Both of one dimension, shuffled alike.

    Raises
    ------
    UsageError
        Where the format's range or the number of terms is too small for the condition number.

    Notes
    -----
    Algorithm 6.1 (GenDot) of Ogita, Rump, Oishi (SIAM J. Sci. Comput. 26, 2005) in rational arithmetic, driven to an
    inner product fixed in advance. All products stay between ``2**(-b / 2)`` and ``2**(b / 2)`` for
    ``b = log2(condition_number)``, up to the number of terms.
    """
    target = _signed_format(dtype)
    if condition_number < 4:
        raise UsageError(f"ill_conditioned_dot got the condition number {condition_number}; it starts at 4")
    digits = _digits(condition_number)
    closing = _num_closing(digits, num_terms, target)
    _require_terms(num_terms, closing + 2, condition_number)
    reach = digits / 4
    if reach + num_terms.bit_length() > target.max_exponent:
        raise UsageError(
            f"the range of {target.name} cannot hold {num_terms} products with the condition number "
            f"{condition_number:.3g}; ask for a smaller condition number or a wider dtype"
        )
    generator = random.Random(f"dot {seed}")
    pairs: list[tuple[Fraction, Fraction]] = []
    for index in range(num_terms - closing):
        exponent = reach - (2 * reach * generator.random() if index else 0.0)
        pairs.append((Fraction(_draw(generator, exponent, target)), Fraction(_draw(generator, exponent, target))))
    mass = sum((abs(x * y) for x, y in pairs), Fraction(0))
    rest = sum((x * y for x, y in pairs), Fraction(0))
    if rest > 0:
        pairs, rest = [(-x, y) for x, y in pairs], -rest
    wanted = 2 * (mass - rest) / (Fraction(condition_number) - 2)
    rest -= wanted
    while len(pairs) < num_terms and abs(rest) * 2**CLOSING_DIGITS > wanted:
        exponent = min(max(_exponent(rest) / 2, -reach), reach)
        x = Fraction(_draw(generator, exponent, target))
        y = -_truncate(rest / x, target)
        pairs.append((x, y))
        rest += x * y
    if abs(rest) * 2 ** (CLOSING_DIGITS - 2) > wanted:
        raise UsageError(
            f"{target.name} is too coarse for {num_terms} products with the condition number {condition_number:.3g}; "
            "ask for a smaller condition number, more terms, or a wider dtype"
        )
    pairs += [(Fraction(0), Fraction(_draw(generator, 0.0, target))) for _ in range(num_terms - len(pairs))]
    generator.shuffle(pairs)
    x_values, y_values = ([float(value) for value in column] for column in zip(*pairs, strict=True))
    return torch.tensor(x_values, dtype=torch.float64).to(dtype), torch.tensor(y_values, dtype=torch.float64).to(dtype)


def constant(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return one value over and over, with a full significand: every rounding has the same sign for long."""
    value = 0.5 + torch.rand(1, dtype=torch.float64, generator=_generator(seed))
    return _in_format(value.expand(num_terms), dtype)


def ramp(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return values that grow evenly from near 0 to near 1, ending at a random point."""
    slope = 0.5 + torch.rand(1, dtype=torch.float64, generator=_generator(seed))
    return _in_format(torch.arange(1, num_terms + 1, dtype=torch.float64) * slope / max(1, num_terms), dtype)


def lognormal(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return positive values over many binades, as activations and second moments have."""
    return _in_format(_normal(num_terms, seed).mul(2.0).exp(), dtype)


def cancelling(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return shuffled pairs of ``x`` and ``-x`` (and one small value where the number is odd)."""
    generator = _generator(seed)
    half = torch.randn(num_terms // 2, dtype=torch.float64, generator=generator)
    values = torch.cat([half, -half, half.new_full((num_terms % 2,), 2.0**-10)])
    return _in_format(values[torch.randperm(num_terms, generator=generator)], dtype)


def subnormal(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return values of both signs below the smallest normal number."""
    target = _signed_format(dtype)
    codes = 1 << (target.precision - 1)
    integers = torch.randint(1 - codes, codes, (num_terms,), generator=_generator(seed))
    return (integers.to(torch.float64) * target.smallest_subnormal).to(dtype)


def signed_zeros(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return zeros of random signs; where the format has no negative zero, all are positive."""
    target = _signed_format(dtype)
    signs = torch.randint(0, 2, (num_terms,), generator=_generator(seed)) * 2 - 1
    return (signs.to(torch.float64) * 0.0).abs().to(dtype) if not target.has_negative_zero else (signs * 0.0).to(dtype)


def outliers(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return standard normal values of which about one in a hundred, and always one, is ``2**p`` times larger."""
    generator = _generator(seed)
    values = torch.randn(num_terms, dtype=torch.float64, generator=generator)
    chosen = torch.rand(num_terms, dtype=torch.float64, generator=generator) < 0.01
    if num_terms:
        chosen[int(torch.randint(0, num_terms, (1,), generator=generator))] = True
    return _in_format(torch.where(chosen, values / format_of(dtype).unit_roundoff, values), dtype)


def ones(num_terms: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Return ones; ``seed`` is taken for uniformity and has no effect."""
    return torch.ones(num_terms, dtype=_signed_format(dtype).dtype)


def ones_past_precision(accumulator: torch.dtype, *, dtype: torch.dtype | None = None, excess: int = 64) -> Tensor:
    """Return more ones than an accumulator can count one by one.

    Parameters
    ----------
    accumulator
        A loop that adds in this dtype stops at ``2**p``: 256 for bfloat16, 2,048 for float16, ``2**24`` for float32.
    dtype
        Dtype of the ones; that of the accumulator by default.
    excess
        How many more than ``2**p``.

    Raises
    ------
    UsageError
        For float64, whose ``2**53`` ones fit in no memory.
    """
    precision = format_of(accumulator).precision
    if precision > 32:
        raise UsageError(f"2**{precision} ones are too many for memory; use an accumulator of float32 or shorter")
    return torch.ones(2**precision + excess, dtype=dtype or accumulator)


def with_nonfinite(x: Tensor, value: float, *, num_places: int = 1, seed: int = 0) -> Tensor:
    """Return a copy of a tensor with NaN or an infinity at random places.

    Parameters
    ----------
    x
        Any shape, a floating-point dtype.
    value
        ``nan``, ``inf`` or ``-inf``.
    num_places
        How many elements are replaced.
    seed
        Selects the places.

    Raises
    ------
    UsageError
        Where ``value`` is finite, the format cannot hold it, or there are fewer elements than places.
    """
    target = format_of(x.dtype)
    if math.isfinite(value) or not (target.has_infinity if math.isinf(value) else target.has_nan):
        raise UsageError(f"with_nonfinite cannot place {value} in {target.name}; use a value that it has: nan or inf")
    if num_places > x.numel():
        raise UsageError(f"with_nonfinite cannot place {num_places} values in {x.numel()} elements; ask for fewer")
    places = torch.randperm(x.numel(), generator=_generator(seed))[:num_places].to(x.device)
    copy = x.clone(memory_format=torch.contiguous_format)
    copy.view(-1)[places] = value
    return copy


#: Generators ``(num_terms, *, dtype, seed) -> Tensor`` of finite data, by name.
DATA_KINDS: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType(
    {
        function.__name__: function
        for function in (constant, ramp, lognormal, cancelling, subnormal, signed_zeros, outliers, ones)
    }
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(num_terms: int, seed: int) -> Tensor:
    return torch.randn(num_terms, dtype=torch.float64, generator=_generator(seed))


def _in_format(values: Tensor, dtype: torch.dtype) -> Tensor:
    limit = _signed_format(dtype).max_finite
    return values.clamp(-limit, limit).to(dtype)


def _signed_format(dtype: torch.dtype) -> FloatFormat:
    target = format_of(dtype)
    if not target.is_signed:
        raise UsageError(f"{target.name} holds neither signs nor zeros; use a signed floating-point dtype")
    return target


def _digits(condition_number: float) -> float:
    if not 1 <= condition_number < math.inf:
        raise UsageError(f"the condition number {condition_number} is not possible; give a finite one of at least 1")
    return math.log2(condition_number)


def _num_closing(digits: float, num_terms: int, target: FloatFormat) -> int:
    """Terms that cancel all leading digits, at least p - 1 of them each."""
    return math.ceil((digits + num_terms.bit_length() + CLOSING_DIGITS + 2) / max(1, target.precision - 1)) + 1


def _require_terms(num_terms: int, needed: int, condition_number: float) -> None:
    if num_terms < needed:
        raise UsageError(
            f"{num_terms} terms are too few for the condition number {condition_number:.3g}; use at least {needed + 8}"
        )


def _draw(generator: random.Random, exponent: float, target: FloatFormat) -> float:
    """A number of random sign and significand near ``2**exponent``, never zero."""
    magnitude = (1.0 + generator.random()) * 2.0 ** math.floor(exponent)
    rounded = max(round_to_format(magnitude, target), target.smallest_subnormal)
    return rounded if generator.random() < 0.5 else -rounded


def _exponent(value: Fraction) -> int:
    """The e of ``2**e <= |value| < 2**(e + 1)``."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if abs(value) >= Fraction(2) ** exponent else exponent - 1


def _truncate(value: Fraction, target: FloatFormat) -> Fraction:
    """Round toward zero: the closing terms then have one sign and add up to no more than what they cancel."""
    nearest = Fraction(round_to_format(value, target))
    if abs(nearest) <= abs(value):
        return nearest
    gap = Fraction(2) ** (max(_exponent(value), target.min_exponent) - target.precision + 1)
    return nearest - gap if value > 0 else nearest + gap


def _fill(terms: list[Fraction], num_terms: int, wanted: Fraction, target: FloatFormat) -> None:
    """Add pairs that cancel, too small to move the condition number, and a zero where the number is odd."""
    small = Fraction(max(round_to_format(wanted / (256 * num_terms), target), target.smallest_subnormal))
    while len(terms) + 2 <= num_terms:
        terms += [small, -small]
    terms += [Fraction(0)] * (num_terms - len(terms))


def _shuffled(values: list[Fraction], generator: random.Random, dtype: torch.dtype) -> Tensor:
    generator.shuffle(values)
    return torch.tensor([float(value) for value in values], dtype=torch.float64).to(dtype)
