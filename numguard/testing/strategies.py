"""Hypothesis strategies of the tensors on which inaccurate code shows.

Everything drawn is a function of a few small integers, so failing examples shrink and repeat themselves on every
machine. No generator of torch is read or advanced.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.numerics.adversarial_data import DATA_KINDS, ill_conditioned_dot, ill_conditioned_sum, with_nonfinite
from numguard.numerics.formats import format_of
from numguard.testing.memory_layouts import LAYOUTS

try:
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ModuleNotFoundError as absent:
    raise ModuleNotFoundError(
        "numguard.testing.strategies needs Hypothesis, which is not installed; type: pip install hypothesis",
        name=absent.name,
    ) from absent

T = TypeVar("T")

_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NUM_TERMS: Final = (64, 150)  # enough for every condition number below, in every dtype
_DIGITS: Final = {torch.float16: 5.0}  # decimal digits of condition numbers that the range of the format holds
_MOST_DIGITS: Final = 12.0


def _strategy_of(value: T | SearchStrategy[T] | None, default: SearchStrategy[T]) -> SearchStrategy[T]:
    if value is None:
        return default
    return value if isinstance(value, SearchStrategy) else st.just(value)


def _chosen(argument: str, names: str | Sequence[str] | None, known: Sequence[str]) -> SearchStrategy[str]:
    wanted = known if names is None else (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        what = f"got {unknown[0]!r}, which does not exist" if unknown else "is empty"
        raise UsageError(f"{argument}= {what}; give some of: {', '.join(known)}")
    return st.sampled_from(wanted)


def _seeds() -> SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


def dtypes() -> SearchStrategy[torch.dtype]:
    """Return a strategy of float32, bfloat16, float16 and float64."""
    return st.sampled_from(_DTYPES)


def shapes(
    *, min_dims: int = 1, max_dims: int = 3, min_size: int = 1, max_size: int = 40
) -> SearchStrategy[tuple[int, ...]]:
    """Return a strategy of shapes.

    Parameters
    ----------
    min_dims, max_dims
        Fewest and most dimensions; 0 gives scalars.
    min_size, max_size
        Smallest and largest length of a dimension; 0 gives empty tensors.
    """
    return st.lists(st.integers(min_size, max_size), min_size=min_dims, max_size=max_dims).map(tuple)


def floating_tensors(
    *,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None = None,
    shape: tuple[int, ...] | SearchStrategy[tuple[int, ...]] | None = None,
    kinds: str | Sequence[str] | None = None,
    layouts: str | Sequence[str] | None = None,
) -> SearchStrategy[Tensor]:
    """Return a strategy of finite tensors of the kinds that break implementations, in many memory layouts.

    Parameters
    ----------
    dtype
        A signed floating-point dtype, or a strategy of them; :func:`dtypes` by default.
    shape
        A shape, or a strategy of shapes; :func:`shapes` by default.
    kinds
        Names of data: ``"constant"``, ``"ramp"``, ``"lognormal"``, ``"cancelling"``, ``"subnormal"``,
        ``"signed_zeros"``, ``"outliers"``, ``"ones"``; all by default.
    layouts
        Names of memory layouts: ``"contiguous"``, ``"transposed"``, ``"gapped"`` (every other element of a larger
        tensor, with NaN between), ``"offset"`` (one element off the start of its storage); all by default.

    Raises
    ------
    UsageError
        For a kind or a layout that does not exist.

    Examples
    --------
    >>> from hypothesis import given
    >>> from numguard.testing import assert_accurate, strategies
    >>> @given(strategies.floating_tensors(shape=(3, 50), kinds=["cancelling", "ramp"]))
    ... def test_softmax(x):
    ...     assert_accurate(lambda x: x.softmax(-1), x)
    >>> test_softmax()
    """
    chosen_kinds, chosen_layouts = _chosen("kinds", kinds, [*DATA_KINDS]), _chosen("layouts", layouts, [*LAYOUTS])

    def build(kind: str, layout: str, dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
        values = DATA_KINDS[kind](math.prod(shape), dtype=dtype, seed=seed).reshape(shape)
        return LAYOUTS[layout](values)

    return st.builds(
        build,
        chosen_kinds,
        chosen_layouts,
        _strategy_of(dtype, dtypes()),
        _strategy_of(shape, shapes()),
        _seeds(),
    )


def nonfinite_tensors(
    *,
    value: float | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None = None,
    shape: tuple[int, ...] | SearchStrategy[tuple[int, ...]] | None = None,
    kinds: str | Sequence[str] | None = None,
    layouts: str | Sequence[str] | None = None,
) -> SearchStrategy[Tensor]:
    """Return a strategy of tensors in which NaN or an infinity stands at one to three random places.

    Parameters
    ----------
    value
        ``nan``, ``inf`` or ``-inf``; any of them by default.
    dtype, shape, kinds, layouts
        As for :func:`floating_tensors`. Every shape must have an element.

    Raises
    ------
    UsageError
        For a kind or a layout that does not exist; when drawn, for a value that is finite or a shape without elements.
    """
    chosen_layouts = _chosen("layouts", layouts, [*LAYOUTS])
    values = st.sampled_from([math.nan, math.inf, -math.inf]) if value is None else st.just(value)

    def place(x: Tensor, value: float, num_places: int, layout: str, seed: int) -> Tensor:
        replaced = with_nonfinite(x, value, num_places=min(num_places, max(1, x.numel())), seed=seed)
        return LAYOUTS[layout](replaced)

    finite = floating_tensors(dtype=dtype, shape=shape, kinds=kinds, layouts="contiguous")
    return st.builds(place, finite, values, st.integers(1, 3), chosen_layouts, _seeds())


def ill_conditioned_sums(
    *,
    condition_number: float | SearchStrategy[float] | None = None,
    num_terms: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None = None,
) -> SearchStrategy[Tensor]:
    """Return a strategy of vectors whose sum has a chosen condition number ``sum|x| / |sum x|``.

    Parameters
    ----------
    condition_number
        At least 1, or a strategy; by default 1 to 1e12 (1e5 in float16), evenly by logarithm. Met to 1 %.
    num_terms
        Length, or a strategy of lengths; 64 to 150 by default.
    dtype
        A signed floating-point dtype, or a strategy of them; :func:`dtypes` by default.

    Raises
    ------
    UsageError
        When drawn, where the format cannot hold such a sum and all three were given as plain values; combinations
        that were drawn are left out instead.

    Notes
    -----
    Built by :func:`numguard.numerics.ill_conditioned_sum`: algorithm 6.1 of Ogita, Rump, Oishi (SIAM J. Sci.
    Comput. 26, 2005) in rational arithmetic.
    """
    return _ill_conditioned(ill_conditioned_sum, 1.0, condition_number, num_terms, dtype)


def ill_conditioned_dots(
    *,
    condition_number: float | SearchStrategy[float] | None = None,
    num_terms: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None = None,
) -> SearchStrategy[tuple[Tensor, Tensor]]:
    """Return a strategy of vector pairs whose inner product has a condition number ``2 sum|x y| / |sum x y|``.

    Parameters
    ----------
    condition_number
        At least 4, or a strategy; by default 4 to 4e12 (4e5 in float16), evenly by logarithm. Met to 2 %.
    num_terms
        Length, or a strategy of lengths; 64 to 150 by default.
    dtype
        A signed floating-point dtype, or a strategy of them; :func:`dtypes` by default.

    Raises
    ------
    UsageError
        As for :func:`ill_conditioned_sums`.

    Notes
    -----
    Built by :func:`numguard.numerics.ill_conditioned_dot`, from the same source.
    """
    return _ill_conditioned(ill_conditioned_dot, 4.0, condition_number, num_terms, dtype)


def _ill_conditioned(
    generate: Callable[..., T],
    least: float,
    condition_number: float | SearchStrategy[float] | None,
    num_terms: int | SearchStrategy[int] | None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None,
) -> SearchStrategy[T]:
    is_fixed = (
        isinstance(condition_number, int | float) and isinstance(num_terms, int) and isinstance(dtype, torch.dtype)
    )

    @st.composite
    def drawn(draw: st.DrawFn) -> T:
        chosen = draw(_strategy_of(dtype, dtypes()))
        format_of(chosen)
        # From 1.01 on: between there and 1 no term is small enough to close the sum with.
        digits = st.just(0.0) | st.floats(0.01, _DIGITS.get(chosen, _MOST_DIGITS))
        condition = draw(_strategy_of(condition_number, digits.map(lambda exponent: least * 10.0**exponent)))
        length = draw(_strategy_of(num_terms, st.integers(*_NUM_TERMS)))
        try:
            return generate(length, condition, dtype=chosen, seed=draw(_seeds()))
        except UsageError:
            if is_fixed:
                raise
            return hypothesis.reject()

    return drawn()
