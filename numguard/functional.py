"""Reductions that check themselves: torch's functions with torch's results, every call examined.

Each name takes what torch's function takes and returns what it returns, bit for bit, with the same gradients: it calls
torch's function, and examines the operators that run inside. Inside a :func:`numguard.guard` what is found is the
guard's, in armed steps and in all others; the guard's budget does not limit these checks, and their cost counts as its
own. Outside, findings are logged once each, and :func:`strict` raises them. Backward passes are examined in a guard's
armed steps only. Under ``torch.compile``, inside a dispatch mode of somebody else's and with ``NUMGUARD=off`` the
functions are torch's own.

:func:`all_reduce` is the one collective. Its ranks exchange notes before and after it, whatever guards and dispatch
modes are there, so it has to be put in on all ranks of a group or on none.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from numguard.collectives import examine, is_examinable, skip
from numguard.errors import FindingError
from numguard.finding import Finding
from numguard.inquiry import Inquiry, active_guard, is_unwatched, log_findings
from numguard.session.demand import every_call

__all__ = [
    "all_reduce",
    "cross_entropy",
    "cumsum",
    "layer_norm",
    "log_softmax",
    "logsumexp",
    "matmul",
    "mean",
    "nansum",
    "prod",
    "rms_norm",
    "scaled_dot_product_attention",
    "softmax",
    "std",
    "strict",
    "sum",
    "var",
    "vector_norm",
]

log = logging.getLogger("numguard")

_Function = TypeVar("_Function", bound=Callable[..., Any])
_strict: Final = ContextVar("numguard_functional_strict", default=False)
_inquiries: Final = threading.local()


@contextmanager
def strict() -> Iterator[None]:
    """Raise :class:`~numguard.errors.FindingError` inside the block for every result that is proved wrong.

    For findings of severity ``error``, outside a guard; a guard raises with ``on_finding="raise"``. Warnings are
    logged as ever.

    Raises
    ------
    FindingError
        From the call that returned the wrong result, each time.

    Examples
    --------
    >>> import torch
    >>> from numguard import functional
    >>> with functional.strict():
    ...     functional.sum(torch.ones(3))
    tensor(3.)
    """
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


def _inquiry() -> Inquiry:
    inquiry: Inquiry | None = getattr(_inquiries, "inquiry", None)
    if inquiry is None:
        inquiry = _inquiries.inquiry = Inquiry()
    return inquiry


def _examined(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    guard = active_guard()
    if guard is not None:
        present = guard.present()
        with every_call(*present) if present is not None else nullcontext():
            return function(*args, **kwargs)
    if _get_current_dispatch_mode() is not None:  # it would see the shadows' operators, too
        return function(*args, **kwargs)
    answer = _inquiry().ask(function, args, kwargs)
    _settle(answer.findings, answer.new)
    return answer.result


def _settle(findings: Sequence[Finding], new: Sequence[Finding]) -> None:
    log_findings(new)
    if _strict.get():
        for finding in findings:
            if finding.severity == "error":
                raise FindingError(finding)


def _instrumented(function: _Function, torch_name: str, summary: str, shapes: str, bound: str) -> _Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or is_unwatched():
            return function(*args, **kwargs)
        return _examined(function, args, kwargs)

    call.__name__ = call.__qualname__ = torch_name.rpartition(".")[2]
    call.__doc__ = _DOCSTRING.format(name=torch_name, summary=summary, shapes=shapes, bound=bound)
    return cast("_Function", call)


_DOCSTRING: Final = """{summary}

The same as :func:`{name}`, examined.

Parameters
----------
*args, **kwargs
    As :func:`{name}` takes them. {shapes} float64, float32, bfloat16 and float16 are judged; other dtypes are passed
    on without a verdict.

Returns
-------
Tensor
    What :func:`{name}` returns, with its gradient.

Raises
------
FindingError
    Under :func:`numguard.functional.strict`, outside a guard, if a result is proved wrong.

Notes
-----
With the unit roundoff u of the accumulator, before the rounding of the output is added: {bound}
"""
_ASNA: Final = "Higham, ASNA 2nd ed., section"

sum = _instrumented(
    torch.sum,
    "torch.sum",
    "Return the sum of all elements, or over some dimensions.",
    "Any shape and layout.",
    f"h u sum|x| for a summation tree of height h ({_ASNA} 4.2).",
)
mean = _instrumented(
    torch.mean,
    "torch.mean",
    "Return the mean of all elements, or over some dimensions.",
    "Any shape and layout.",
    f"(h + 1) u sum|x| / n for a summation tree of height h ({_ASNA} 4.2) and one division.",
)
nansum = _instrumented(
    torch.nansum,
    "torch.nansum",
    "Return the sum of the elements that are not NaN.",
    "Any shape and layout.",
    f"h u sum|x| over those elements for a summation tree of height h ({_ASNA} 4.2).",
)
prod = _instrumented(
    torch.prod,
    "torch.prod",
    "Return the product of all elements, or over one dimension.",
    "Any shape and layout.",
    f"(n - 1) u |x1 x2 ... xn| ({_ASNA} 3.1); nothing is said where an intermediate product could overflow.",
)
cumsum = _instrumented(
    torch.cumsum,
    "torch.cumsum",
    "Return the cumulative sums over one dimension.",
    "Any shape and layout.",
    f"for each prefix of k elements (k - 1) u (|x1| + ... + |xk|) ({_ASNA} 4.2).",
)
logsumexp = _instrumented(
    torch.logsumexp,
    "torch.logsumexp",
    "Return the logarithm of the sum of exponentials.",
    "Any shape and layout.",
    "the rounding of the shifted exponentials, of their sum and of the logarithm (Blanchard, Higham, Higham, IMA J. "
    "Numer. Anal. 41, 2021, theorem 4.2).",
)
softmax = _instrumented(
    torch.softmax,
    "torch.softmax",
    "Return the softmax over one dimension.",
    "Any shape and layout.",
    "relative to each probability, the rounding of the shifted exponential, of the sum and of the quotient "
    "(Blanchard, Higham, Higham, IMA J. Numer. Anal. 41, 2021, section 4).",
)
log_softmax = _instrumented(
    torch.log_softmax,
    "torch.log_softmax",
    "Return the logarithm of the softmax over one dimension.",
    "Any shape and layout.",
    "the rounding of the shift, of the sum of exponentials, of its logarithm and of the last subtraction "
    "(Blanchard, Higham, Higham, IMA J. Numer. Anal. 41, 2021, section 4).",
)
var = _instrumented(
    torch.var,
    "torch.var",
    "Return the variance of all elements, or over some dimensions.",
    "Any shape and layout.",
    "h u (2 V + 2 sqrt(V (V + mean^2))) + (h u)^2 (V + mean^2) with the mean's error squared on top, for h = 4 n "
    "roundings per term, scaled as the divisor is (Chan, Golub, LeVeque, The American Statistician 37, 1983).",
)
std = _instrumented(
    torch.std,
    "torch.std",
    "Return the standard deviation of all elements, or over some dimensions.",
    "Any shape and layout.",
    "d / (sqrt(V) + sqrt(V - d)) for a variance V with the bound d of :func:`var`, and sqrt(d) where d exceeds V.",
)
vector_norm = _instrumented(
    torch.linalg.vector_norm,
    "torch.linalg.vector_norm",
    "Return a vector norm of all elements, or over some dimensions.",
    "Any shape and layout; orders other than 0, 1, 2 and infinity included.",
    f"for the 2-norm (h / 2 + 2) u ||x|| with a summation tree of height h ({_ASNA} 3.1); the powers and the root of "
    "any other order add theirs.",
)
layer_norm = _instrumented(
    F.layer_norm,
    "torch.nn.functional.layer_norm",
    "Return the input with mean 0 and variance 1 over its last dimensions, scaled and shifted.",
    "Input [*, *normalized_shape].",
    f"the rounding of mean and variance by Welford's algorithm or two passes ({_ASNA} 1.9), carried through the "
    "quotient. The saved mean and reciprocal deviation are judged too.",
)
rms_norm = _instrumented(
    F.rms_norm,
    "torch.nn.functional.rms_norm",
    "Return the input divided by its root mean square over its last dimensions, scaled.",
    "Input [*, *normalized_shape].",
    f"that of the mean of squares ({_ASNA} 3.1) carried through the quotient, where this build has one operator for "
    "it; where it composes it of others, that of the mean, and the elementwise operators are not judged.",
)
cross_entropy = _instrumented(
    F.cross_entropy,
    "torch.nn.functional.cross_entropy",
    "Return the cross entropy of logits and targets.",
    "Logits [C], [N, C] or [N, C, d1, ...], targets as class numbers or probabilities.",
    "those of log_softmax and of the weighted sum of its terms, each judged on its own inputs.",
)
matmul = _instrumented(
    torch.matmul,
    "torch.matmul",
    "Return the matrix product, with torch's broadcasting.",
    "Vectors, matrices and batches of matrices.",
    f"k u |A| |B| for inner dimension k ({_ASNA} 3.5), elementwise, in the precision that the backend is set to.",
)
scaled_dot_product_attention = _instrumented(
    F.scaled_dot_product_attention,
    "torch.nn.functional.scaled_dot_product_attention",
    "Return the attention of queries to keys, applied to values.",
    "Queries [*, L, E], keys [*, S, E], values [*, S, V].",
    f"those of the two products ({_ASNA} 3.5) and of the softmax between them, carried through, where a fused kernel "
    "runs; where it is composed of operators, each is judged on its own inputs. With dropout nothing is said.",
)


_SUM: Final = dist.ReduceOp.SUM if dist.is_available() else None  # a build without torch.distributed has no calls


def all_reduce(tensor: Tensor, op: Any = _SUM, group: Any = None, async_op: bool = False) -> Any:
    """Reduce a tensor over all ranks of a group, in place.

    The same as :func:`torch.distributed.all_reduce`, examined. All ranks of the group must call this function, with
    the same setting of ``NUMGUARD``: before and after the collective they exchange notes of fixed length (2 KiB and
    40 bytes from each rank), in two calls of ``all_gather``.

    Parameters
    ----------
    tensor, op, group
        As :func:`torch.distributed.all_reduce` takes them. The numbers are judged for the operations SUM, AVG, MIN and
        MAX on float64, float32, bfloat16 and float16, any shape and strides; of others only the agreement of the ranks
        is examined. Sparse tensors, tensor subclasses and calls inside a coalescing block are passed on unexamined.
    async_op
        True passes the call on unexamined: the notes that follow the collective would be exchanged in ``wait()``,
        which ranks may call in different orders, and would wait for each other. A guard counts such calls as not
        covered.

    Returns
    -------
    Work or None
        What :func:`torch.distributed.all_reduce` returns.

    Raises
    ------
    FindingError
        Under :func:`numguard.functional.strict`, outside a guard, if a result is proved wrong or ranks do not agree;
        if they call with different dtypes, sizes or operations, before the collective, which may hang.

    Notes
    -----
    With R ranks and the unit roundoff u of the dtype, before the rounding of the output is added: (R - 1) u
    (|x_1| + ... + |x_R|) for any order of additions that rounds to the dtype on every hop (Higham, ASNA 2nd
    ed., section 4.2); for AVG (R + 1) u to first order, over R; MIN and MAX are exact. 64 elements, drawn anew in each
    call, the same on all ranks, are judged each by itself, all others in 64 blocks: a block's sum by the sum of the
    bounds of its elements. So a fault in one element is found where it exceeds the bound of its block, else once in
    n/64 calls on average. A NaN or Inf is a finding unless an input is not finite or a partial sum may overflow.
    What lies outside is a ``wrong_result``. The result must have the same bits on all ranks, as torch promises; else
    it is a ``collective_mismatch``.
    """
    if torch.compiler.is_compiling() or is_unwatched():
        return dist.all_reduce(tensor, op, group, async_op)
    if not is_examinable(tensor, group, async_op):
        skip("async_op=True" if async_op else "not a plain tensor, or not reduced when the call returns")
        return dist.all_reduce(tensor, op, group, async_op)
    inquiry = _inquiry()
    return examine(
        lambda: dist.all_reduce(tensor, op, group, async_op),
        tensor,
        op,
        group,
        inquiry,
        lambda: _settle(*inquiry.take()),
    )
