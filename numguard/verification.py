"""One call, verified: was its result one that a correct implementation could have returned?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from numguard.checks import REGISTRY
from numguard.conditions import condition_number_of
from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.inquiry import Answer, Inquiry, checked_operators
from numguard.shadow.call import is_repeatable, mutated_arguments, overload_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What :func:`numguard.verify` says about one call.

    A call can run several operators with many elements each. ``value``, ``shadow_value``, ``forward_error``,
    ``error_bound`` and ``ratio`` are those of one element: the one that comes nearest to its bound, or is furthest
    outside.

    Parameters
    ----------
    ok
        True where every judged element meets the bound of a correct implementation and there is nothing else to
        say, but for ``inaccurate_accumulation``: a result that this build accumulates more coarsely than documented.
    value
        What was computed, as a number.
    shadow_value
        The same by another route in float64.
    forward_error
        ``|value - shadow_value|``, absolute.
    error_bound
        What ``forward_error`` may be: the bound of the operator's check with the rounding of the output.
    ratio
        ``forward_error / error_bound``; above 1 no correct implementation could have returned ``value``. Infinite
        for a NaN or Inf that may not be there.
    condition_number
        Of the operator ``op``: by how much relative changes of its inputs are magnified in the worst-conditioned
        element of its result. None where :mod:`numguard.numerics.conditioning` has no closed form for it.
    findings
        What a guard would have reported.
    op
        The operator that the numbers belong to, with overload: ``"aten::sum.dim_IntList"``.
    num_elements
        Elements that were compared, over all operators of the call.
    num_indeterminate
        Elements among them that nothing can be said of: overflow was possible, or the exact value is not finite.
    not_covered
        Operators inside the call that were not judged, with the reason where they have a check.
    """

    ok: bool
    value: float
    shadow_value: float
    forward_error: float
    error_bound: float
    ratio: float
    condition_number: float | None
    findings: tuple[Finding, ...]
    op: str
    num_elements: int
    num_indeterminate: int
    not_covered: tuple[str, ...] = ()


def verify(op: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Verdict:
    """Run one call and say whether a correct implementation could have returned its result.

    Parameters
    ----------
    op
        An operator (``torch.ops.aten.sum.dim_IntList``, or the packet ``torch.ops.aten.sum``) or a function that
        calls some, such as :func:`torch.sum` or :func:`torch.nn.functional.layer_norm`. Every operator with a check
        that runs inside is judged, on every element up to 2**30 multiply-adds and on evenly spaced rows beyond.
    *args, **kwargs
        Its arguments: tensors of any shape and layout in float64, float32, bfloat16 or float16, and integers where
        the operator takes them. What the operator writes to is a copy with the same strides, so the caller's tensors
        stay as they are; so do the states of torch's random generators.

    Returns
    -------
    Verdict
        The worst element with its bound, and the findings.

    Raises
    ------
    UsageError
        If no operator inside has a check, or none could be judged: says which ran, and what is checked. If ``op``
        cannot be called, or is a module.

    Notes
    -----
    The bound is that of the operator's check: a proved rounding bound of the accumulation that this build uses, as
    in Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., chapters 3 and 4, with the error of the
    shadow and the rounding of the output added. A result outside is judged again along a second, independent route
    and, where possible, computed again, before it becomes a finding. Exceptions of ``op`` itself pass through. Only
    the call is checked, not the backward pass of its result; verify the backward operator for that. A running guard
    neither sees nor counts the call, and ``NUMGUARD=off`` does not stop it: a question that was asked is answered.

    Examples
    --------
    >>> import torch, numguard
    >>> verdict = numguard.verify(torch.sum, torch.tensor([1e8, 1.0, -1e8]))
    >>> verdict.ok, verdict.condition_number
    (True, 200000001.0)
    """
    if isinstance(op, torch.nn.Module):
        raise UsageError(
            f"verify() got a {type(op).__name__}, whose buffers a call could change; give the function that it calls, "
            "for example torch.nn.functional.layer_norm with the module's parameters"
        )
    if not callable(op):
        raise UsageError(f"verify() got {op!r}, which cannot be called; give torch.sum or torch.ops.aten.sum")
    given, named = args, kwargs
    if not isinstance(op, torch._ops.OpOverload) or not is_repeatable(op):
        copies: dict[int, torch.UntypedStorage] = {}
        given, named = _copied(args, copies), _copied(kwargs, copies)
    devices = {t.device.index or 0 for t in _tensors((args, kwargs)) if t.is_cuda}
    # The copies are leaves, and autograd lets nobody write to a leaf.
    grad = torch.is_grad_enabled() and not _writes(op, kwargs)
    with torch.random.fork_rng(devices=sorted(devices)), torch.set_grad_enabled(grad):
        answer = Inquiry().ask(op, given, named)
    if not answer.judged and not answer.findings:
        raise UsageError(_nothing_judged(op, answer))
    return _verdict(answer)


def _verdict(answer: Answer) -> Verdict:
    every = [(numbers, judged.call) for judged in answer.judged for numbers in judged.verdicts]
    not_covered = (*answer.reasons, *(f"{op}: no verdict" for op in answer.unjudged))
    ok = all(finding.kind == "inaccurate_accumulation" for finding in answer.findings)
    if not every:  # numguard itself failed, and a finding says how
        return Verdict(
            ok=ok,
            value=math.nan,
            shadow_value=math.nan,
            forward_error=math.nan,
            error_bound=math.nan,
            ratio=math.nan,
            condition_number=None,
            findings=answer.findings,
            op="",
            num_elements=0,
            num_indeterminate=0,
            not_covered=not_covered,
        )
    worst, call = max(every, key=lambda judged: (judged[0].worst_ratio, judged[0].num_elements))
    with _disable_current_modes():  # a guard around the call does not see numguard's own arithmetic
        condition = condition_number_of(call)
    return Verdict(
        ok=ok,
        value=worst.worst_computed,
        shadow_value=worst.worst_exact,
        forward_error=abs(worst.worst_computed - worst.worst_exact),
        error_bound=worst.worst_bound,
        ratio=worst.worst_ratio,
        condition_number=condition,
        findings=answer.findings,
        op=call.op,
        num_elements=sum(int(numbers.num_elements) for numbers, _ in every),
        num_indeterminate=sum(int(numbers.num_indeterminate) for numbers, _ in every),
        not_covered=not_covered,
    )


def _writes(op: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call writes to an argument, as far as its name and its arguments tell."""
    if isinstance(op, torch._ops.OpOverload):
        return bool(mutated_arguments(op))
    name = str(getattr(op, "__name__", ""))
    return (
        (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None or bool(kwargs.get("inplace"))
    )


def _nothing_judged(op: Callable[..., Any], answer: Answer) -> str:
    name = overload_name(op) if isinstance(op, torch._ops.OpOverload) else getattr(op, "__name__", repr(op))
    if answer.reasons:
        return f"verify({name}): the call could not be judged ({'; '.join(answer.reasons)})"
    ran = ", ".join(answer.unjudged) or "no operator on floating-point numbers"
    return (
        f"verify({name}): it ran {ran}, for which there is no check outside an optimizer's step. "
        f"Give a call of something that is: {', '.join(REGISTRY)} ({len(checked_operators())} operators)"
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _copied(value: Any, copies: dict[int, torch.UntypedStorage]) -> Any:
    """Return a value with its tensors copied: same strides, and views of one memory stay views of one memory."""
    if isinstance(value, Tensor):
        return _copy(value, copies)
    if type(value) is dict:
        return {name: _copied(item, copies) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item, copies) for item in value)
    return value


def _copy(tensor: Tensor, copies: dict[int, torch.UntypedStorage]) -> Tensor:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_quantized or tensor.is_nested or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in copies:
        copies[storage.data_ptr()] = storage.clone()  # type: ignore[no-untyped-call]
    alike = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alike.set_(copies[storage.data_ptr()], tensor.storage_offset(), tensor.shape, tensor.stride())
    return alike.requires_grad_(tensor.requires_grad)
