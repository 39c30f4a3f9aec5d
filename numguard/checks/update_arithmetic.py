"""How the elementwise operators of an unfused optimizer step are judged, one tensor or lists of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.backends.pointwise import pointwise_record
from numguard.checks.check import Probe
from numguard.checks.tensor_lists import DTYPES, Selection, as_arrays, groups_of_one_dtype, reason_against, select
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.error_bounds.optimizer_bounds import rounding_of
from numguard.numerics.error_bounds.pointwise_bounds import RULES, Operands, PointwiseRule
from numguard.shadow.call import OpCall, mutated_arguments
from numguard.shadow.comparison import Compared, Comparison, JudgedComparison, NotCovered

if TYPE_CHECKING:
    from numguard.backends.pointwise import Pointwise

ELEMENT_COST: Final = 20.0  # float64 operations of value, bound and judgement per element

#: Names under which overloads take their second term, and their factor.
SECOND_TERM: Final = ("other", "end", "tensors1", "tensor1", "scalar", "scalars")
FACTOR: Final = ("alpha", "value", "weight", "scalars")

_REAL: Final = frozenset({float, int, type(None)})

Scalar = float | Tensor | Sequence[float]
Term = Sequence[Tensor] | Scalar


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The arguments of one call: lists of tensors, a scalar term where the operator has one, and the factor."""

    rule: PointwiseRule
    lists: tuple[Sequence[Tensor], ...]
    constant: Scalar | None
    factor: Scalar


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Selected elements of the terms of tensors of one dtype, in their own dtype, as they were before the call.

    ``parts`` are those of the call, where a rule judges it.
    """

    selection: Selection
    values: tuple[Tensor, ...]
    parts: Parts | None = None


@cache
def _name_of(overload: torch._ops.OpOverload) -> str:
    return str(overload._schema.name).removeprefix("aten::").removeprefix("_foreach_").removesuffix("_")


def _base_name(call: OpCall) -> str:
    return _name_of(call.overload)


@cache
def _roles(overload: torch._ops.OpOverload) -> tuple[PointwiseRule, str, tuple[str, ...]]:
    """Return the rule of an operator, the name of its second term, if any, and what may be the name of its factor."""
    rule, names = RULES[_name_of(overload)], {argument.name for argument in overload._schema.arguments}
    second = next(name for name in SECOND_TERM if name in names) if rule.num_terms >= 2 else ""
    return rule, second, tuple(name for name in FACTOR if name in names)


def _parts(call: OpCall) -> Parts:
    rule, second_name, factors = _roles(call.overload)
    joined = isinstance(call["self"], list | tuple)
    constant: Scalar | None = None
    lists = [call["self"] if joined else [call["self"]]]
    if second_name:
        second = call[second_name]
        is_list = isinstance(second, list | tuple) and bool(second) and isinstance(second[0], Tensor)
        if is_list or (not joined and isinstance(second, Tensor) and second.dim()):
            lists.append(second if is_list else [second])
        elif not joined and isinstance(second, Tensor) and not call["self"].dim():
            lists.append([second])
        else:
            constant = second
    if rule.num_terms == 3:
        lists.append(call["tensor2"] if joined else [call["tensor2"]])
    factor = next((call[name] for name in factors if call[name] is not constant), 1.0)
    if not joined and any(tensor.shape != lists[0][0].shape for (tensor,) in lists):
        views = torch.broadcast_tensors(*(tensor for (tensor,) in lists))  # type: ignore[no-untyped-call]
        lists = [[tensor] for tensor in views]
    return Parts(rule=rule, lists=tuple(lists), constant=constant, factor=factor)


def _reason(parts: Parts) -> str | None:
    reason = reason_against({str(position): tensors for position, tensors in enumerate(parts.lists)})
    if reason is None and any(len({t.dtype for t in row}) > 1 for row in zip(*parts.lists, strict=True)):
        reason = "operands of different dtypes"
    for scalar in (parts.constant, parts.factor):
        values = scalar if isinstance(scalar, list | tuple) else [scalar]
        if any(isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()) for value in values):
            reason = "complex scalars are not covered"
    return reason


def _is_usual(parts: Parts) -> bool:
    """Return whether nothing can be said against the operands: one each, in host memory, of one shape and dtype."""
    first = parts.lists[0][0] if parts.lists[0] else None
    if first is None or first.dtype not in DTYPES:
        return False
    for tensors in parts.lists:
        if len(tensors) != 1:
            return False
        tensor = tensors[0]
        if tensor.dtype != first.dtype or tensor.shape != first.shape or not tensor.is_cpu or tensor.is_nested:
            return False
        if tensor.layout is not torch.strided:
            return False
    return parts.constant.__class__ in _REAL and parts.factor.__class__ in _REAL


def capture(call: OpCall, probe: Probe) -> tuple[Terms, ...] | None:
    """Copy the selected elements of every term; None where they cannot be judged."""
    parts = _parts(call)
    if not _is_usual(parts) and _reason(parts) is not None:
        return None
    groups = [[0]] if len(parts.lists[0]) == 1 else groups_of_one_dtype(parts.lists[:1])
    return tuple(
        Terms(parts=parts, selection=selection, values=tuple([selection.of(tensors) for tensors in parts.lists]))
        for numbers in groups
        for selection in [select(parts.lists[0], numbers, probe, ELEMENT_COST)]
    )


def _spread(scalar: Scalar, selection: Selection, like: Any, xp: Any, into: Any) -> Any:
    """Return a scalar, or one per tensor, as a number or a float64 array of the selection."""
    if isinstance(scalar, Tensor):
        values = scalar.double()
        if values.numel() == 1:
            return into(values.reshape(()))
        return into(selection.spread(torch.stack([values[number] for number in selection.numbers])))
    if isinstance(scalar, int | float):
        return float(scalar)
    numbers = [float(scalar[number]) for number in selection.numbers]
    if len(set(numbers)) == 1:
        return numbers[0]
    if xp is np:
        return np.repeat(np.array(numbers), selection.sizes)
    return torch.cat([like.new_full((size,), number) for number, size in zip(numbers, selection.sizes, strict=True)])


def _compare(call: OpCall, before: Terms, results: Sequence[Tensor], probe: Probe) -> Compared:
    parts = before.parts or _parts(call)
    computed = before.selection.of(results, copies=False)
    judged = _judged(call, parts, before, computed, probe)
    if judged is not None:
        return judged
    xp, into, back = as_arrays(probe, computed.device)
    terms = [into(value) for value in before.values]
    if parts.constant is not None:
        constant = _spread(parts.constant, before.selection, terms[0], xp, into)
        terms.insert(1, _as_array(constant, terms[0], xp))
    factor = _spread(parts.factor, before.selection, terms[0], xp, into)
    operands = Operands(tuple(terms), factor, parts.constant is not None)
    exact = parts.rule.value(xp, operands)
    narrow = parts.rule.rounds and computed.dtype in (torch.float16, torch.bfloat16)

    def bound(constants_in_dtype: bool) -> Tensor | float:
        rounding = rounding_of(computed.dtype, constants_in_dtype=constants_in_dtype)
        error = parts.rule.error(xp, operands, exact, rounding)
        return error if isinstance(error, float) else back(error)

    name = _output(call)
    return Comparison(
        output=before.selection.label(name) if isinstance(call["self"], list | tuple) else name,
        computed=computed,
        exact=back(exact),
        strict=bound(False),
        permissive=bound(True) if narrow else None,
        model="calibrated" if narrow else "proved",
        rounds_output=parts.rule.rounds,
        propagates_nonfinite=computed.dtype != torch.float64,
        segments=before.selection.segments(name),
    )


def _output(call: OpCall) -> str:
    mutated = mutated_arguments(call.overload)
    return mutated[0] if mutated else "result"


@lru_cache(maxsize=1024)
def _record(rule: str, constant: float | None, factor: float, dtype: torch.dtype) -> "Pointwise | None":
    """Return what a fused route judges an operator on tensors of a dtype by; None where it has no such operator."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    return pointwise_record(
        rule=rule,
        constant=constant,
        factor=factor,
        strict=rounding_of(dtype),
        permissive=rounding_of(dtype, constants_in_dtype=True) if narrow else None,
        result=(UNIT_ROUNDOFF[dtype], smallest_rounding(dtype), float(torch.finfo(dtype).max)),
        propagates_nonfinite=dtype != torch.float64,
    )


def _number(scalar: Scalar | None, numbers: Sequence[int]) -> float | None:
    """Return a scalar that is the same for all tensors, or None where it is not."""
    if isinstance(scalar, Tensor):
        return float(scalar.detach().double().numpy().reshape(())) if scalar.numel() == 1 and scalar.is_cpu else None
    if isinstance(scalar, list | tuple):
        values = {float(scalar[number]) for number in numbers}
        return values.pop() if len(values) == 1 else None
    return None if scalar is None else float(scalar)  # type: ignore[arg-type]


def _judged(call: OpCall, parts: Parts, before: Terms, computed: Tensor, probe: Probe) -> JudgedComparison | None:
    """Return the comparison, judged by a fused route; None where it has no such operator, or scalars differ."""
    fused = probe.arithmetic.fused
    # A factor that is a tensor may be rounded where a number is not: for that, see the rules.
    if fused is None or not computed.is_cpu or isinstance(parts.factor, Tensor):
        return None
    factor, constant = (_number(scalar, before.selection.numbers) for scalar in (parts.factor, parts.constant))
    if factor is None or (constant is None and parts.constant is not None):
        return None
    by = _record(_base_name(call), constant, factor, computed.dtype)
    judged = None if by is None else fused.pointwise(computed, before.values, by)
    if by is None or judged is None:
        return None
    name = _output(call)
    return JudgedComparison(
        output=before.selection.label(name) if isinstance(call["self"], list | tuple) else name,
        elements=judged,
        view=computed,
        model="calibrated" if by.has_permissive else "proved",
        propagates_nonfinite=computed.dtype != torch.float64,
        segments=before.selection.segments(name),
    )


def _as_array(constant: Any, like: Any, xp: Any) -> Any:
    """Return a scalar as an array that keeps the namespace of the terms."""
    if isinstance(constant, float):
        return np.float64(constant) if xp is np else like.new_full((), constant)
    return constant


def judge(call: OpCall, captured: tuple[Terms, ...] | None, probe: Probe) -> list[Compared]:
    """Compare the results of one elementwise operator, or of a list of them, with their shadows."""
    if captured is None:
        raise NotCovered(_reason(_parts(call)) or "nothing was captured before the operator wrote")
    results = call["self"] if mutated_arguments(call.overload) else call.output
    results = results if isinstance(results, list | tuple) else [results]
    with np.errstate(all="ignore"):
        return [_compare(call, before, results, probe) for before in captured]


def judge_result(call: OpCall, captured: None, probe: Probe) -> list[Compared]:
    """Judge an operator that overwrites nothing: its operands are read after the call."""
    return judge(call, capture(call, probe), probe)


def cost(call: OpCall) -> float:
    """Return the operations of a complete shadow."""
    tensors = call["self"] if isinstance(call["self"], list | tuple) else [call["self"]]
    return float(ELEMENT_COST * sum(tensor.numel() for tensor in tensors))
