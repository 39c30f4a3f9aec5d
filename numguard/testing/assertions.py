"""The assertion that a result is as accurate as a correct implementation makes it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from numguard.errors import UsageError
from numguard.testing.discrepancy import Discrepancy
from numguard.testing.examined_calls import examine_calls
from numguard.testing.referenced_results import wrong_results


def assert_accurate(
    fn: Callable[..., Any],
    *args: Any,
    reference: Any = None,
    error_bound: float | Tensor | None = None,
) -> None:
    """Assert that what a function computes is as accurate as a correct implementation makes it.

    Without ``reference`` and ``error_bound`` every operator that the function calls, backward passes included, and
    that a check of numguard covers is held against its shadow and the rounding bound of that check. With either, the
    results of the function are held against a reference in float64.

    Parameters
    ----------
    fn
        The function under test.
    *args
        Its arguments: tensors, structures of tensors, or anything else.
    reference
        What is right: a function, which is called with the arguments in float64, or the right values themselves (a
        tensor, or a structure of them in the form of the result). None with an ``error_bound`` takes ``fn`` in
        float64.
    error_bound
        Largest ``|computed - exact|`` before the result is rounded to its dtype: a number, or a tensor that
        broadcasts to every result. None derives one, which needs a ``reference`` that autograd can differentiate.
        Integer results must be equal whatever the bound.

    Raises
    ------
    AssertionError
        With ulps, bound, condition number, worst index, values and dtype of whatever is outside its bound.
    UsageError
        Where nothing could be compared, so that the assertion could not fail, or no bound can be derived.

    Notes
    -----
    A result c of dtype d passes where ``|c - r| <= E' + u(|r| + E') + eta`` for the reference r, the unit roundoff u
    and half the smallest subnormal eta of d, ``E' = (1 + 2**-8) E``, and the error of r itself. Elements whose right
    value may overflow, or whose derivative is infinite, are passed over; where the reference is NaN or infinite, the
    result must be one of the two.

    The derived E is that of a numerically stable algorithm in the mixed forward-backward sense (Higham, ASNA 2nd
    ed., section 1.5), which is an assumption about the function: its result is nearly the exact one for nearly the
    given inputs. Each of the k operators that the function calls may change result and inputs by 4 u of themselves,
    and reductions may change each input by one rounding of the accumulator (unit roundoff a) for each of the m inputs
    that an element depends on (section 3.1): ``E = 4 k u (|r| + s) + gamma_m(a) s`` with
    ``s = sum_i |dr/dx_i| |x_i|`` from autograd in float64. The same with the unit roundoff of float64 bounds the error
    of r.

    Examples
    --------
    >>> import torch
    >>> from numguard.testing import assert_accurate
    >>> x = torch.linspace(-1.0, 1.0, 100).bfloat16()
    >>> assert_accurate(torch.sum, x)
    >>> assert_accurate(lambda x: x * x.sigmoid(), x, reference=torch.nn.functional.silu)
    """
    __tracebackhide__ = True
    if reference is None and error_bound is None:
        found = _wrong_calls(fn, args)
    else:
        found = wrong_results(fn, args, reference, error_bound)
    if found:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise AssertionError("\n".join([f"{name} is inaccurate.", *map(str, found)]))


def _wrong_calls(fn: Callable[..., Any], args: tuple[Any, ...]) -> Sequence[Discrepancy]:
    __tracebackhide__ = True
    examined = examine_calls(lambda: fn(*args))
    if examined.num_calls == 0:
        reasons = "; ".join(examined.not_covered) or "it calls no operator that a check covers"
        raise UsageError(
            f"assert_accurate judged nothing: {reasons}; give reference=, a function that is called with the "
            "arguments in float64, or the right values"
        )
    return examined.discrepancies
