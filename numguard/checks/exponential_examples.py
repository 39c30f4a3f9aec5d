"""Calls of exponential operators that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples

aten = torch.ops.aten


def _logits(dtype: torch.dtype, generator: torch.Generator, *shape: int) -> Tensor:
    return (3.0 * torch.randn(*shape, generator=generator)).to(dtype)


def _forward_call(op: Any, *shape: int, dim: int = -1) -> Any:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        return op, (_logits(dtype, generator, *shape), dim, False), {}

    return call


def _masked_call(op: Any) -> Any:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        x = _logits(dtype, generator, 6, 33).masked_fill(torch.ones(6, 33).triu(1) > 0, -torch.inf)
        x[5] = -torch.inf
        return op, (x, -1, False), {}

    return call


def _constant_call(op: Any) -> Any:
    """Make 4,096 equal logits: a sum kept in bfloat16 would stop at 256."""

    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        return op, (torch.zeros(2, 4096, dtype=dtype), -1, False), {}

    return call


def _safe_call(masked_rows: int) -> Any:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        x = _logits(dtype, generator, 6, 33)
        x[:masked_rows] = -torch.inf
        x[3, :7] = -torch.inf
        return aten._safe_softmax.default, (x, -1), {}

    return call


def _logsumexp_call(*shape: int, dim: tuple[int, ...] = (-1,)) -> Any:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        return aten.logsumexp.default, (_logits(dtype, generator, *shape), list(dim)), {}

    return call


def _backward_call(op: Any, *, logarithmic: bool, dim: int = -1) -> Any:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        x, g = _logits(dtype, generator, 6, 40, 3), torch.randn(6, 40, 3, generator=generator).to(dtype)
        return op, (g, x.log_softmax(dim) if logarithmic else x.softmax(dim), dim, dtype), {}

    return call


def _without_largest(x: Tensor, dim: int) -> Tensor:
    """Return ln Z of rows that miss their largest term."""
    wide = x.double()
    total: Tensor = wide.masked_fill(wide == wide.amax(dim, True), -torch.inf).logsumexp(dim, keepdim=True)
    return total


def _dropped_term(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    x: Tensor = args[0]
    return (x.double() - _without_largest(x, args[1])).exp().to(output.dtype)


def _dropped_log_term(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    x: Tensor = args[0]
    return (x.double() - _without_largest(x, args[1])).to(output.dtype)


def _dropped_summand(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return _without_largest(args[0], args[1][0]).reshape(output.shape).to(output.dtype)


def _stopped_at_256(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return what a row of equal logits gives when a bfloat16 sum stops at 256."""
    return torch.full_like(output, 1.0 / 256.0)


def _log_stopped_at_256(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.full_like(output, 1.0 / 256.0).log()


def _unmasked(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return zeros where a fully masked row gives NaN."""
    return output.nan_to_num(nan=0.0)


def _lost_total(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the gradient without its projection: g y or g."""
    grad: Tensor = args[0]
    saved: Tensor = args[1]
    return (grad * saved if (saved > 0).any() else grad).to(output.dtype)


def _forward_examples(op: Any, dropped: Any, stopped: Any) -> Examples:
    rows, inner = _forward_call(op, 5, 70), _forward_call(op, 4, 33, 6, dim=1)
    return Examples(
        silent=(
            Example(name="rows", call=rows),
            Example(name="inner-dim", call=inner),
            Example(name="masked", call=_masked_call(op)),
            Example(name="constant", call=_constant_call(op)),
        ),
        fires=(
            Example(name="dropped-term", call=rows, corrupt=dropped),
            Example(name="stale-row", call=rows, corrupt=planted_faults.stale_row),
            Example(name="doubled-block", call=rows, corrupt=planted_faults.doubled_block),
            Example(name="flipped-bit", call=inner, corrupt=planted_faults.flipped_bit),
            Example(name="nan", call=inner, corrupt=planted_faults.planted_nan),
            Example(name="sum-stops-at-256", call=_constant_call(op), corrupt=stopped),
            Example(name="masked-row-finite", call=_masked_call(op), corrupt=_unmasked),
        ),
    )


def _backward_examples(op: Any, *, logarithmic: bool) -> Examples:
    rows = _backward_call(op, logarithmic=logarithmic)
    inner = _backward_call(op, logarithmic=logarithmic, dim=1)
    return Examples(
        silent=(Example(name="rows", call=rows), Example(name="inner-dim", call=inner)),
        fires=(
            Example(name="lost-total", call=inner, corrupt=_lost_total),
            Example(name="stale-row", call=inner, corrupt=planted_faults.stale_row),
            Example(name="doubled-block", call=inner, corrupt=planted_faults.doubled_block),
            Example(name="flipped-bit", call=rows, corrupt=planted_faults.flipped_bit),
            Example(name="nan", call=rows, corrupt=planted_faults.planted_nan),
        ),
    )


SOFTMAX: Final = _forward_examples(aten._softmax.default, _dropped_term, _stopped_at_256)
LOG_SOFTMAX: Final = _forward_examples(aten._log_softmax.default, _dropped_log_term, _log_stopped_at_256)
SOFTMAX_BACKWARD: Final = _backward_examples(aten._softmax_backward_data.default, logarithmic=False)
LOG_SOFTMAX_BACKWARD: Final = _backward_examples(aten._log_softmax_backward_data.default, logarithmic=True)
SAFE_SOFTMAX: Final = Examples(
    silent=(Example(name="masked", call=_safe_call(2)),),
    fires=(
        Example(name="dropped-term", call=_safe_call(0), corrupt=_dropped_term),
        Example(name="masked-row-leaks", call=_safe_call(2), corrupt=planted_faults.leaking_zero),
        Example(name="flipped-bit", call=_safe_call(2), corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=_safe_call(2), corrupt=planted_faults.planted_nan),
    ),
)
LOGSUMEXP: Final = Examples(
    silent=(
        Example(name="rows", call=_logsumexp_call(5, 70)),
        Example(name="two-dims", call=_logsumexp_call(4, 9, 6, dim=(0, 2))),
    ),
    fires=(
        Example(name="dropped-term", call=_logsumexp_call(5, 70), corrupt=_dropped_summand),
        Example(name="stale-row", call=_logsumexp_call(5, 70), corrupt=planted_faults.stale_row),
        Example(name="flipped-bit", call=_logsumexp_call(5, 70), corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=_logsumexp_call(5, 70), corrupt=planted_faults.planted_nan),
    ),
)
