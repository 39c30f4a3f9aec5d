"""Custom kernels beside the reference of their author: sampled calls are compared, and nothing else changes."""

import functools
import logging
import math
import random
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from numguard.errors import UsageError
from numguard.inquiry import Inquiry, is_unwatched, log_findings
from numguard.interception.attribution import Origin
from numguard.interception.observation import Observation
from numguard.interception.sites import FIRST_VISITS, Site
from numguard.session.run import Run
from numguard.shadow.call import tensors_in
from numguard.shadow.verdict import WIDTH, Verdict
from numguard.venue import Venue, present_venue

log = logging.getLogger("numguard")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
Bound = float | Callable[..., Any]
_ADVICE: Final = (
    "Compare the kernel with its reference on this shape and dtype in a test of its own; if the kernel is right, the "
    "error_bound that was given to numguard.shadowed is too small."
)
_UNCOMPARED: Final = "Correct reference= or error_bound= of numguard.shadowed; the kernel's own result was used."


class _Incomparable(Exception):  # noqa: N818  (a reason to report, not an error)
    """Kernel and reference cannot be compared; the message says why."""


def shadowed(
    *, reference: Callable[..., Any], error_bound: Bound, share: float = 0.01, seed: int = 0
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Return a decorator that compares some calls of a custom kernel with a reference.

    The first three calls are compared, and then a share of the others. The kernel's own result is returned in any
    case, with its own gradient. What lies outside the bound is a ``wrong_result`` of severity ``warning``: the bound
    is the author's, and numguard proves nothing about it. Inside a guard it is a finding of the guard's; outside it
    is logged once.

    Parameters
    ----------
    reference
        Computes the same from the same arguments, for example in float64. It gets copies of the tensors as they were
        before the kernel ran, without autograd; what it raises never reaches the caller.
    error_bound
        What ``|kernel - reference|`` may be, absolute and elementwise, the rounding of the output included: a number,
        or a function of the kernel's arguments that returns a number or a tensor that broadcasts to the result. For
        several results it may return one bound for each, as a tuple or a list.
    share
        Share of the calls after the first three that is compared, in [0, 1].
    seed
        Picks those calls; the same seed picks the same calls, by their number.

    Returns
    -------
    Callable
        A decorator for a function that returns a tensor, or a tuple or list of tensors, of any shape and of
        floating-point dtype.

    Raises
    ------
    UsageError
        If ``reference`` cannot be called, or ``error_bound`` or ``share`` is not what it should be.

    Notes
    -----
    A NaN or Inf must be the reference's own. Findings have ``model="assumed"`` and ``proof="none"``. A reference
    that fails, or gives another shape, is a ``degraded`` finding, once; training goes on. The states of torch's
    random generators are as if the reference had not run. On an accelerator a guard reads the verdict when it has
    arrived; outside a guard a compared call waits for it. Under ``torch.compile`` and ``NUMGUARD=off`` the kernel
    runs by itself.

    Examples
    --------
    >>> import torch, numguard
    >>> def exact(x):
    ...     return x.double().square().sum(-1)
    >>> def bound(x):
    ...     return 2.0**-24 * x.shape[-1] * x.double().square().sum(-1)
    >>> @numguard.shadowed(reference=exact, error_bound=bound)
    ... def square_norm(x):
    ...     return torch.einsum("...i,...i->...", x, x)
    >>> square_norm(torch.tensor([3.0, 4.0]))
    tensor(25.)
    """
    _require_usable(reference, error_bound, share)

    def decorate(kernel: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        if not callable(kernel):
            raise UsageError(f"shadowed(...) was put on {kernel!r}, which cannot be called; put it on a function")
        name = str(getattr(kernel, "__qualname__", type(kernel).__name__)).replace(".<locals>", "")
        comparison = _Comparison(name, reference, error_bound, float(share), seed)

        @functools.wraps(kernel)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            if torch.compiler.is_compiling() or is_unwatched() or not comparison.is_due():
                return kernel(*args, **kwargs)
            before = comparison.copies(args, kwargs)
            result = kernel(*args, **kwargs)
            if before is not None:
                comparison.compare(result, *before)
            return result

        return call

    return decorate


def _require_usable(reference: Any, error_bound: Any, share: Any) -> None:
    if not callable(reference):
        raise UsageError(f"reference={reference!r} cannot be called; give a function of the kernel's arguments")
    if not callable(error_bound) and not _is_bound(error_bound):
        raise UsageError(
            f"error_bound={error_bound!r} is no bound; give a number from 0, or a function of the kernel's arguments"
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        raise UsageError(f"share={share!r} is no share of calls; give a number from 0 to 1")


def _is_bound(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


class _Comparison:
    """The comparisons of one kernel: which calls, with what, and what came of them."""

    def __init__(self, name: str, reference: Callable[..., Any], error_bound: Bound, share: float, seed: int) -> None:
        self._name, self._reference, self._error_bound = name, reference, error_bound
        self._share, self._random = share, random.Random(seed)
        self._num_calls = 0
        self._inquiry = Inquiry()
        self._sites: dict[tuple[object, ...], Site] = {}
        self._run: Callable[[], Run | None] = lambda: None

    def is_due(self) -> bool:
        """Return whether the call that comes now is compared."""
        self._num_calls += 1
        drawn = self._random.random() < self._share  # drawn for every call, so that the number of a call decides
        return drawn or self._num_calls <= FIRST_VISITS

    def copies(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments with copies of their tensors, or None where nothing is compared."""
        try:
            venue = present_venue(self._inquiry)
            if venue is None:
                return None
            with venue.clock(), torch.no_grad(), _disable_current_modes():
                return tuple(_copied(value) for value in args), {name: _copied(v) for name, v in kwargs.items()}
        except Exception as error:
            self._fail(error)
            return None

    def compare(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare a result with the reference's, and report what lies outside the bound. Never raises."""
        try:
            venue = present_venue(self._inquiry)
            if venue is not None:
                with venue.clock():
                    self._compare(result, args, kwargs, venue)
        except Exception as error:
            self._fail(error)

    def _compare(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], venue: Venue) -> None:
        origin = venue.origin()
        computed = tensors_in(result)
        devices = sorted({tensor.device.index or 0 for tensor in computed if tensor.is_cuda})
        with torch.no_grad(), _disable_current_modes(), torch.random.fork_rng(devices=devices):
            if not computed or not all(tensor.is_floating_point() for tensor in computed):
                raise _Incomparable("it did not return tensors of floating-point numbers")
            exact = tensors_in(self._reference(*args, **kwargs))
            if [tensor.shape for tensor in exact] != [tensor.shape for tensor in computed]:
                shapes = " and ".join(str([tuple(tensor.shape) for tensor in side]) for side in (computed, exact))
                raise _Incomparable(f"the shapes of kernel and reference differ: {shapes}")
            bounds = self._bounds(args, kwargs, len(computed))
            for place, (ours, theirs, bound) in enumerate(zip(computed, exact, bounds, strict=True)):
                if ours.numel():
                    output = "result" if len(computed) == 1 else f"output[{place}]"
                    self._judge(ours.detach(), theirs.to(ours.device), bound, output, origin, venue)

    def _bounds(self, args: tuple[Any, ...], kwargs: dict[str, Any], count: int) -> list[Any]:
        bound = self._error_bound(*args, **kwargs) if callable(self._error_bound) else self._error_bound
        bounds = list(bound) if isinstance(bound, list | tuple) else [bound] * count
        if len(bounds) != count:
            raise _Incomparable(f"error_bound gave {len(bounds)} bounds for {count} results")
        return bounds

    def _judge(self, computed: Tensor, exact: Tensor, bound: Any, output: str, origin: Origin, venue: Venue) -> None:
        vector = _evaluate(computed, exact, bound)
        site, order, shape = self._site(computed, origin, venue), self._num_calls, list(computed.shape)

        def deliver(numbers: list[float]) -> None:
            verdict = Verdict(*numbers)
            if verdict.wrong:
                venue.observe(
                    Observation(
                        kind="wrong_result",
                        site=site,
                        check="shadowed",
                        output=output,
                        step=venue.step,
                        order=order,
                        proof="none",
                        model="assumed",
                        confirmed="no",
                        verdict=verdict,
                        advice=_ADVICE,
                        evidence={"shape": shape, "bound": "given to numguard.shadowed"},
                    )
                )
                _log_new(venue)
            else:
                site.last_clean_step = venue.step
            site.num_checked += 1

        venue.post(vector, deliver)

    def _site(self, computed: Tensor, origin: Origin, venue: Venue) -> Site:
        if venue.run is not self._run():  # another run: what was clean in the last one says nothing of this one
            self._run = weakref.ref(venue.run) if venue.run is not None else lambda: None
            self._sites.clear()
        dtype = str(computed.dtype)[6:]
        key = (origin.phase, origin.module, origin.location, dtype)
        known = self._sites.get(key)
        if known is None:
            func = torch.ops.aten.detach.default  # a kernel outside the dispatcher has no operator of its own
            known = self._sites[key] = Site(
                func=func, op=self._name, checks=("shadowed",), origin=origin, dtype=dtype, shape=""
            )
        return known

    def _fail(self, error: Exception) -> None:
        """Say once that the kernel was not compared; never raises."""
        reason = str(error) if isinstance(error, _Incomparable) else f"{type(error).__name__}: {str(error)[:200]}"
        try:
            venue = present_venue(self._inquiry)
            if venue is not None:
                what = f"{self._name} was not compared with its reference: {reason}"
                venue.degrade("reference", what, _UNCOMPARED)
                _log_new(venue)
        except Exception:
            log.exception("numguard failed to report that %s was not compared; the kernel's result stands", self._name)


def _log_new(venue: Venue) -> None:
    """Log what was entered outside a guard; a guard logs by itself."""
    if venue.run is None:
        log_findings(venue.inquiry.take_new())


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    return value


def _evaluate(computed: Tensor, exact: Tensor, bound: Any) -> Tensor:
    """Return the numbers of a verdict, without waiting for the device. The bound is taken as it was given."""
    ours, theirs = computed.to(torch.float64).reshape(-1), exact.to(torch.float64).reshape(-1)
    limit = torch.as_tensor(bound, dtype=torch.float64, device=computed.device).expand(computed.shape).reshape(-1)
    difference = (ours - theirs).abs()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    ratio = torch.where(same, 0.0, difference / limit)
    ratio = torch.where(ratio.isnan() | (~same & ~(difference <= limit) & (ratio <= 1.0)), torch.inf, ratio)
    worst = ratio.argmax().reshape(1)
    zero = torch.zeros((), dtype=torch.float64, device=computed.device)
    numbers = {
        "num_elements": zero + ours.numel(),
        "num_wrong": torch.count_nonzero(ratio > 1.0).to(torch.float64),
        "worst_ratio": ratio.take(worst)[0],
        "worst_strict_ratio": ratio.take(worst)[0],
        "worst_index": worst[0].to(torch.float64),
        "worst_computed": ours.take(worst)[0],
        "worst_exact": theirs.take(worst)[0],
        "worst_bound": limit.take(worst)[0],
        "worst_strict_bound": limit.take(worst)[0],
    }
    vector = torch.stack([numbers.get(field, zero) for field in Verdict._fields])
    assert len(vector) == WIDTH
    return vector
