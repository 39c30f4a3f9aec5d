"""Faulty kernels: a wrong result below everything that watches, as a broken build or a broken chip would give it.

The kernel that the dispatcher finds for an operator is replaced in this process. Whoever calls the operator gets the
wrong result: eager code, autograd, compiled code's extern calls, other operators that are built on it, in every dtype.
"""

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.shadow.call import bind, mutated_arguments, tensors_in

_GRACE_SECONDS: Final = 30.0

# A thread may be inside a kernel that has just been taken away: what keeps it alive is held for a while.
_retired: deque[tuple[float, Any]] = deque()


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelCall:
    """One call of a faulty kernel, after the right kernel has run.

    Parameters
    ----------
    overload
        The operator.
    before
        Every argument by schema name, as it was before the right kernel ran: what it overwrites is a copy.
    arguments
        The same with the caller's own tensors.
    output
        What the right kernel returned.
    results
        The tensors that hold the result: those returned or, for an operator that writes in place, those written to.
    rerun
        ``rerun(changes)`` runs the right kernel once more, on copies, with some arguments changed, and returns its
        results in the same order.
    """

    overload: torch._ops.OpOverload
    before: Mapping[str, Any]
    arguments: Mapping[str, Any]
    output: Any
    results: tuple[Tensor, ...]
    rerun: Callable[[Mapping[str, Any]], tuple[Tensor, ...]]


class Fault:
    """Counts what a faulty kernel did. Made by :func:`faulty_kernel`."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.num_fired = 0


def _overload(op: str) -> torch._ops.OpOverload:
    namespace, _, rest = op.partition("::")
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), name, None) if name else None
    found = getattr(packet, overload or "default", None) if packet is not None else None
    if not isinstance(found, torch._ops.OpOverload):
        raise UsageError(
            f"op={op!r} is no operator of this build; give a name with namespace and overload, 'aten::sum.dim_IntList'"
        )
    return found


def _refuse_unreplaceable(op: str, key: str) -> None:
    if torch._C._dispatch_has_kernel_for_dispatch_key(op, "CompositeImplicitAutograd"):
        raise UsageError(
            f"op={op!r} is composed of other operators and differentiated through them, so a kernel under it would "
            "break its backward; give one of the operators that it calls"
        )
    if f"{op.replace('::', '/', 1)}/{key}" in torch.library._impls:
        raise UsageError(
            f"op={op!r} already has a kernel in Python on {key}, another fault perhaps; end that one first"
        )


def _right_kernel(op: str, key: str) -> Any:
    try:
        return torch.library.get_kernel(op, key)
    except RuntimeError as error:
        raise UsageError(f"op={op!r} cannot be made faulty on {key}: {error}; give one that runs there") from error


def _results(overload: torch._ops.OpOverload, arguments: Mapping[str, Any], output: Any) -> tuple[Tensor, ...]:
    written = mutated_arguments(overload)
    if not written:
        return tuple(tensors_in(output))
    return tuple(tensor for name in written for tensor in tensors_in(arguments[name]))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _split(overload: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    schema = overload._schema.arguments
    args = [arguments[argument.name] for argument in schema if not argument.kwarg_only]
    return args, {argument.name: arguments[argument.name] for argument in schema if argument.kwarg_only}


def _retire(kernel: Any) -> None:
    now = time.monotonic()
    _retired.append((now, kernel))
    while now - _retired[0][0] > _GRACE_SECONDS:
        _retired.popleft()


def _kernel(
    overload: torch._ops.OpOverload,
    right: Any,
    corrupt: Callable[[KernelCall], object],
    when: Callable[[Mapping[str, Any]], bool] | None,
    fault: Fault,
) -> Callable[..., Any]:
    """Return the function that takes the place of the right kernel, and counts in ``fault`` what it did."""
    inside, written = threading.local(), mutated_arguments(overload)

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(inside, "busy", False):
            return right.call_boxed(keys, *args, **kwargs)
        arguments = bind(overload, args, kwargs)
        inside.busy = True
        try:
            fault.num_calls += 1
            if when is not None and not when(arguments):
                return right.call_boxed(keys, *args, **kwargs)
            before = {name: _copied(value) if name in written else value for name, value in arguments.items()}

            def rerun(changes: Mapping[str, Any]) -> tuple[Tensor, ...]:
                again = {name: _copied(value) if name in written else value for name, value in before.items()}
                again.update(changes)
                positional, named = _split(overload, again)
                return _results(overload, again, right.call_boxed(keys, *positional, **named))

            output = right.call_boxed(keys, *args, **kwargs)
            fault.num_fired += 1
            with torch.no_grad():
                corrupt(
                    KernelCall(
                        overload=overload,
                        before=before,
                        arguments=arguments,
                        output=output,
                        results=_results(overload, arguments, output),
                        rerun=rerun,
                    )
                )
            return output
        finally:
            inside.busy = False

    return kernel


@contextmanager
def faulty_kernel(
    op: str,
    corrupt: Callable[[KernelCall], object],
    *,
    when: Callable[[Mapping[str, Any]], bool] | None = None,
    device: str = "cpu",
) -> Iterator[Fault]:
    """Put a faulty kernel under an operator, in this process, and take it away again whatever happens.

    Parameters
    ----------
    op
        Operator with namespace and overload, ``"aten::sum.dim_IntList"``.
    corrupt
        Called after the right kernel; writes what is wrong into ``call.results``. It runs without autograd, and
        calls of the same operator inside it reach the right kernel.
    when
        Tells from the arguments of a call, by schema name and before the kernel runs, whether it goes wrong; None
        for every call.
    device
        ``"cpu"`` or another device type with kernels of its own.

    Yields
    ------
    Fault
        How often the operator was called and how often the fault fired.

    Raises
    ------
    UsageError
        For an operator that does not exist, has a kernel in Python already, or is composed of others.

    Notes
    -----
    Operators that take Python numbers in place of tensors (``mul``, ``add``, ``div`` with tensor overloads) cannot be
    replaced: a number would arrive that the right kernel does not take. Calls made while the dispatcher runs the
    right kernel hold the interpreter's lock.

    Examples
    --------
    >>> import torch
    >>> from numguard.testing import faulty_kernel
    >>> with faulty_kernel("aten::sum.dim_IntList", lambda call: call.results[0].add_(1.0)):
    ...     total = torch.ones(2, 3).sum(1)
    >>> total
    tensor([4., 4.])
    """
    overload, key = _overload(op), device.upper()
    _refuse_unreplaceable(op, key)
    right = _right_kernel(op, key)
    fault = Fault()
    kernel = _kernel(overload, right, corrupt, when, fault)
    library = torch.library.Library(op.partition("::")[0], "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # That the operator has a kernel already is the point.
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
            library.impl(op.partition("::")[2], kernel, key, with_keyset=True)  # type: ignore[no-untyped-call]
        _retire(torch.library.get_kernel(op, key))
        yield fault
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
