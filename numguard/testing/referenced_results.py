"""Holds the results of a function against a reference in float64, with a bound that is given or derived."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from numguard.errors import UsageError
from numguard.interception.mode import ArmedMode
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, judge
from numguard.numerics.formats import accumulator_dtype
from numguard.testing.discrepancy import Discrepancy
from numguard.testing.sensitivity import condition_number_at, sensitivity_of, widened

#: Relative error of one operator outside its reductions, in unit roundoffs: two elementary functions in a row, each
#: correct to one unit in the last place, which is two unit roundoffs (SLEEF 3, the variants of 1.0 ulp).
ROUNDINGS_PER_OPERATOR: Final = 4
_MOST_DERIVATIVES: Final = 1 << 22  # numbers in the Jacobian of a derived bound

_Named = list[tuple[str, Tensor]]


def wrong_results(
    fn: Callable[..., Any], args: tuple[Any, ...], reference: Any, error_bound: float | Tensor | None
) -> list[Discrepancy]:
    """Return the results of ``fn(*args)`` that are outside their bounds.

    Parameters
    ----------
    fn, args, reference, error_bound
        As :func:`~numguard.testing.assert_accurate` takes them, ``reference`` and ``error_bound`` not both None.

    Raises
    ------
    AssertionError
        Where number or shapes of the results differ from those of the reference.
    UsageError
        Where there is nothing to compare, or no bound can be derived.
    """
    __tracebackhide__ = True
    if error_bound is not None and not _is_bound(error_bound):
        raise UsageError(f"error_bound={error_bound!r} is no bound; give numbers of at least 0, in absolute terms")
    right = fn if reference is None else reference
    originals, inputs = widened(args, requires_grad=error_bound is None)  # before fn, which may write to its arguments
    copies, _ = widened(originals)
    counting = ArmedMode({}, lambda overload, args, kwargs: overload(*args, **kwargs))
    with counting:
        computed = _results(fn(*args))
    exact = _results(_evaluated(right, originals, error_bound is None) if callable(right) else right)
    _require_alike(computed, exact, "fn" if reference is None else "reference", callable(right))
    found = []
    for number, ((name, result), (_, value)) in enumerate(zip(computed, exact, strict=True)):
        bound, own_error = error_bound, value.new_zeros((), dtype=torch.float64)
        basis = "error_bound="
        if bound is None and result.is_floating_point():
            bound, own_error = _derived_bounds(value, inputs, result.dtype, counting.num_ops)
            basis = f"derived, for a stable algorithm of {counting.num_ops} operators"
        worst = _worst_element(result, value, bound, own_error)
        if worst is None:
            continue
        element, limit, num_wrong = worst
        right_there = float(value.detach().reshape(-1)[element])
        found.append(
            Discrepancy(
                what=name,
                computed=result.detach().reshape(-1)[element].clone(),
                exact=right_there,
                error_bound=limit,
                index=tuple(int(place) for place in torch.unravel_index(torch.tensor(element), result.shape)),
                num_wrong=num_wrong,
                num_elements=result.numel(),
                condition_number=_condition_number(right, copies, number, element, right_there),
                basis=basis if result.is_floating_point() else "no floating-point result",
            )
        )
    return found


def _is_bound(error_bound: Any) -> bool:
    try:
        return bool((torch.as_tensor(error_bound) >= 0).all())
    except (TypeError, ValueError, RuntimeError):
        return False


def _condition_number(right: Any, arguments: Any, number: int, element: int, exact: float) -> float | None:
    if not callable(right):
        return None
    return condition_number_at(right, (arguments, {}), lambda result: _results(result)[number][1], element, exact)


def _results(result: Any) -> _Named:
    """Return every tensor and number of a result under its path, numbers in the widest dtype."""
    named = []
    for path, leaf in tree_flatten_with_path(result)[0]:
        if isinstance(leaf, Tensor):
            named.append((f"result{keystr(path)}", leaf))
        elif isinstance(leaf, float | int):
            dtype = torch.float64 if isinstance(leaf, float) else None
            named.append((f"result{keystr(path)}", torch.tensor(leaf, dtype=dtype)))
    return named


def _evaluated(right: Callable[..., Any], arguments: tuple[Any, ...], is_derived: bool) -> Any:
    if not is_derived:
        with torch.no_grad():
            return right(*arguments)
    try:
        with torch.enable_grad():
            return right(*arguments)
    except RuntimeError as error:
        raise UsageError(
            f"reference= cannot be run under autograd in float64, which a derived bound needs ({error}); "
            "give error_bound= too"
        ) from error


def _require_alike(computed: _Named, exact: _Named, source: str, is_evaluated: bool) -> None:
    __tracebackhide__ = True
    if not computed:
        raise UsageError("fn returned neither tensor nor number, so there is nothing to compare; return the result")
    shapes, wanted = ([tuple(tensor.shape) for _, tensor in named] for named in (computed, exact))
    if shapes != wanted:
        raise AssertionError(f"fn returned results of the shapes {shapes}, the reference {wanted}")
    for (name, result), (_, value) in zip(computed, exact, strict=True):
        if result.is_complex() or value.is_complex():
            raise UsageError(f"{name} is complex; return its real and imaginary parts, with torch.view_as_real")
        if is_evaluated and result.is_floating_point() and value.dtype != torch.float64:
            raise UsageError(
                f"{source}= returned {value.dtype} for arguments in float64, which is no reference; leave out the "
                "conversion in it, or give the right values"
            )


def _derived_bounds(
    value: Tensor, inputs: list[Tensor], dtype: torch.dtype, num_operators: int
) -> tuple[Tensor, Tensor]:
    """Return the bound on a stable algorithm's error in ``dtype``, and on that of the reference in float64."""
    num_inputs = sum(x.numel() for x in inputs)
    if not value.requires_grad:
        raise UsageError(
            "no bound can be derived: the reference gives values that autograd does not lead back to the arguments; "
            "give error_bound= too"
        )
    if value.numel() * num_inputs > _MOST_DERIVATIVES:
        raise UsageError(
            f"no bound can be derived for {value.numel()} results of {num_inputs} inputs, which would take more than "
            f"{_MOST_DERIVATIVES} derivatives; give error_bound= too, or a smaller example"
        )
    change, depends_on = sensitivity_of(value, inputs, range(value.numel()))
    magnitude = value.detach().abs().reshape(-1)

    def bound(unit: float, accumulator: float) -> Tensor:
        roundings = depends_on.to(change.device) * accumulator
        gamma = torch.where(roundings < 1.0, roundings / (1.0 - roundings), torch.inf)
        reductions = torch.where(change == 0, 0.0, gamma * change)
        return (ROUNDINGS_PER_OPERATOR * num_operators * unit * (magnitude + change) + reductions).reshape(value.shape)

    wide = UNIT_ROUNDOFF[torch.float64]
    return bound(UNIT_ROUNDOFF[dtype], UNIT_ROUNDOFF[accumulator_dtype(dtype)]), bound(wide, wide)


def _worst_element(
    result: Tensor, value: Tensor, bound: float | Tensor | None, own_error: Tensor
) -> tuple[int, float, int] | None:
    """Return flat index and bound of the worst element and how many are wrong; None where none is."""
    if result.numel() == 0:
        return None
    exact = value.detach().to(result.device, torch.float64)
    allowed = torch.as_tensor(0.0 if bound is None else bound, dtype=torch.float64, device=result.device)
    judgement = judge(
        result.detach(),
        exact,
        allowed.detach().expand(result.shape),
        shadow_error=own_error.to(result.device),
        rounds_output=result.is_floating_point(),
        propagates_nonfinite=True,
    )
    num_wrong = int(torch.count_nonzero(judgement.ratio > 1.0))
    if num_wrong == 0:
        return None
    element = int(judgement.ratio.argmax())
    return element, float(judgement.bound.reshape(-1)[element]), num_wrong
