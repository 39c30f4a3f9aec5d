"""Calls on which the checks of attention must be silent, and faults on which they must fire."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples

Arguments = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
aten = torch.ops.aten
_FORWARD: Final = aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD: Final = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _factors(
    dtype: torch.dtype, generator: Generator, queries: int, keys: int, heads: int, kv_heads: int
) -> list[Tensor]:
    shapes = ((2, heads, queries, 16), (2, kv_heads, keys, 16), (2, kv_heads, keys, 16))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def _forward(
    queries: int = 33,
    keys: int = 33,
    heads: int = 2,
    kv_heads: int = 2,
    causal: bool = False,
    mask: Callable[[Tensor], Tensor] | None = None,
    spread: float = 1.0,
) -> Callable[[torch.dtype, Generator], Arguments]:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        query, key, value = _factors(dtype, generator, queries, keys, heads, kv_heads)
        options: dict[str, Any] = {}
        if mask is not None:
            options["attn_mask"] = mask(torch.rand(queries, keys, generator=generator)).to(dtype)
        return _FORWARD, (query * spread, key, value, 0.0, causal), options

    return call


def _backward(**settings: Any) -> Callable[[torch.dtype, Generator], Arguments]:
    forward = _forward(**settings)

    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        overload, (query, key, value, dropout, causal), options = forward(dtype, generator)
        output, lse = overload(query, key, value, dropout, causal, **options)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)
        return _BACKWARD, (grad, query, key, value, output, lse, dropout, causal), options

    return call


def _hidden(share: Tensor) -> Tensor:
    hidden = share < 0.4
    hidden[:, 0] = False
    return torch.zeros(share.shape).masked_fill(hidden, -torch.inf)


def _lowest(share: Tensor) -> Tensor:
    return torch.zeros(share.shape).masked_fill(share < 0.4, torch.finfo(torch.float16).min)


def _without_keys(share: Tensor) -> Tensor:
    mask = torch.zeros(share.shape)
    mask[3] = -torch.inf
    return mask


# corruptions ----------------------------------------------------------------------------------------------------


def _changed(position: int, change: Callable[[Tensor], None]) -> Callable[[Any, tuple[Any, ...]], Any]:
    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        parts = [part.clone() for part in output]
        change(parts[position])
        return tuple(parts)

    return corrupt


def _stale_row(part: Tensor) -> None:
    part[..., 5, :] = part[..., 4, :]


def _poison(part: Tensor) -> None:
    part[0, 1, 7] = torch.nan


def _double(part: Tensor) -> None:
    part[1, 0, 2] *= 2


def _shift(part: Tensor) -> None:
    part[0, 0, 3] += 0.25


def _without_causality(output: Any, args: tuple[Any, ...]) -> Any:
    return _FORWARD(*args[:3], 0.0, False)


def _dropped_keys(output: Any, args: tuple[Any, ...]) -> Any:
    query, key, value = args[:3]
    return _FORWARD(query, key[:, :, :-4], value[:, :, :-4])


def _dropped_queries(output: Any, args: tuple[Any, ...]) -> Any:
    """Gradients of keys and values without the contribution of the last block of queries."""
    grad, query, key, value, out, lse = args[:6]
    parts = (x[:, :, :-8] for x in (grad, query))
    shorter = _BACKWARD(*parts, key, value, out[:, :, :-8], lse[:, :, :-8], 0.0, False)
    return output[0], shorter[1], shorter[2]


def _of_every_kind(call: Callable[..., Any]) -> tuple[Example, ...]:
    """Return examples of the shapes, scores and masks that forward and backward have in common."""
    return (
        Example(name="plain", call=call()),
        Example(name="causal", call=call(causal=True)),
        Example(name="more keys than queries", call=call(queries=7, keys=50)),
        Example(name="shared key heads", call=call(heads=6)),
        Example(name="large scores", call=call(spread=50.0)),
        Example(name="mask of minus infinity", call=call(mask=_hidden)),
        Example(name="mask of the lowest number", call=call(mask=_lowest)),
        Example(name="row without keys", call=call(mask=_without_keys)),
    )


EXAMPLES: Final = {
    "attention": Examples(
        silent=(
            *_of_every_kind(_forward),
            Example(name="two blocks of keys", call=_forward(queries=5, keys=700)),
        ),
        fires=(
            Example(name="stale row", call=_forward(), corrupt=_changed(0, _stale_row)),
            Example(name="nan", call=_forward(), corrupt=_changed(0, _poison)),
            Example(name="doubled row", call=_forward(), corrupt=_changed(0, _double)),
            Example(name="wrong logsumexp", call=_forward(), corrupt=_changed(1, _shift)),
            Example(name="causality lost", call=_forward(causal=True), corrupt=_without_causality),
            Example(name="dropped keys", call=_forward(), corrupt=_dropped_keys),
        ),
    ),
    "attention_backward": Examples(
        silent=(
            *_of_every_kind(_backward),
            Example(name="many queries", call=_backward(queries=200, keys=20)),
        ),
        fires=(
            Example(name="stale query row", call=_backward(), corrupt=_changed(0, _stale_row)),
            Example(name="nan in a key", call=_backward(), corrupt=_changed(1, _poison)),
            Example(name="doubled value row", call=_backward(), corrupt=_changed(2, _double)),
            Example(name="dropped block of queries", call=_backward(), corrupt=_dropped_queries),
        ),
    ),
}
