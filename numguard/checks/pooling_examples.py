"""Calls of pooling operators that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.batch_norm_examples import channels_last
from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan, stale_row

aten = torch.ops.aten
Arguments = tuple[Any, ...]


def _image(
    dtype: torch.dtype, generator: Generator, dims: int = 2, last: bool = False, poisoned: bool = False
) -> Tensor:
    x = torch.randn((2, 3, *(9, 8, 5)[:dims]), generator=generator, dtype=torch.float64).to(dtype)
    if poisoned:
        x.view(-1)[::11] = torch.nan
        x.view(-1)[7] = torch.inf
    return channels_last(x) if last else x


def _forward(op: Any, *arguments: Any, **image: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        return op, (_image(dtype, generator, **image), *arguments), {}

    return call


def _max_backward(op: Any, backward: Any, *arguments: Any, **image: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = _image(dtype, generator, **image)
        y, indices = op(x, *arguments)
        grad = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator).to(dtype))
        given = arguments if "adaptive" not in str(op) else ()
        return backward, (grad, x, *given, indices), {}

    return call


def _fractional_backward(dtype: torch.dtype, generator: Generator) -> Any:
    x = _image(dtype, generator)
    samples = torch.rand(2, 3, 2, generator=generator).to(dtype)
    y, indices = aten.fractional_max_pool2d(x, [3, 2], [4, 5], samples)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)
    return aten.fractional_max_pool2d_backward.default, (grad, x, [3, 2], [4, 5], indices), {}


def _average_backward(op: Any, backward: Any, *arguments: Any, **image: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = _image(dtype, generator, **image)
        y = op(x, *arguments)
        grad = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator).to(dtype))
        return backward, (grad, x, *(arguments if "adaptive" not in str(op) else ())), {}

    return call


def _next_index(output: Any, args: Arguments) -> Any:
    """Return the indices of the neighbours to the left."""
    return output[0], (output[1] - 1).clamp(min=0)


def _runner_up(output: Any, args: Arguments) -> Any:
    """Return one value that is not the largest, with its index."""
    x, (values, indices) = args[0], (part.clone() for part in output)
    place = x[0, 0].argmin()
    values[0, 0, 0, 0], indices[0, 0, 0, 0] = x[0, 0].reshape(-1)[place], place
    return values, indices


def _wrong_divisor(output: Tensor, args: Arguments) -> Tensor:
    return output * 0.75


_PLAIN: Final = ([3, 3], [2, 2], [1, 1], [1, 1], False)
_CEILED: Final = ([3, 2], [2, 2], [1, 1], [1, 2], True)
_MEAN: Final = ([3, 3], [2, 2], [1, 1], False, True, None)
_CUT: Final = ([3, 2], [2, 2], [1, 0], True, False, None)
_PADDED: Final = ([3, 3], [2, 2], [1, 1], True, True, None)
_OVERRIDE: Final = ([3, 3], [1, 1], [1, 1], False, True, 5)
_MAX, _MEAN_POOL = aten.max_pool2d_with_indices.default, aten.avg_pool2d.default
_MAX_GRAD, _MEAN_GRAD = aten.max_pool2d_with_indices_backward.default, aten.avg_pool2d_backward.default
_ADAPTIVE, _ADAPTIVE_GRAD = aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default
_CUBE: Final = ([2, 2, 2], [1, 2, 2], [1, 0, 1])
_WIDE: Final = (torch.float32, torch.float64)  # of the averages over cubes

EXAMPLES: Final = {
    "max_pool": Examples(
        silent=(
            Example(name="overlapping", call=_forward(_MAX, *_PLAIN)),
            Example(name="ceiled and dilated", call=_forward(_MAX, *_CEILED)),
            Example(name="channels_last", call=_forward(_MAX, *_PLAIN, last=True)),
            Example(name="nan and inf", call=_forward(_MAX, *_PLAIN, poisoned=True)),
            Example(name="cube", call=_forward(aten.max_pool3d_with_indices.default, *_CUBE, dims=3)),
            Example(name="adaptive", call=_forward(aten.adaptive_max_pool2d.default, [4, 3])),
            Example(name="adaptive cube", call=_forward(aten.adaptive_max_pool3d.default, [4, 3, 2], dims=3)),
        ),
        fires=(
            Example(name="flipped bit", call=_forward(_MAX, *_PLAIN), corrupt=at(0, flipped_bit)),
            Example(name="nan", call=_forward(_MAX, *_PLAIN), corrupt=at(0, planted_nan)),
            Example(name="next index", call=_forward(_MAX, *_PLAIN), corrupt=_next_index),
            Example(name="not the largest", call=_forward(_MAX, *_PLAIN), corrupt=_runner_up),
            Example(
                name="hidden nan",
                call=_forward(_MAX, *_PLAIN, poisoned=True),
                corrupt=at(0, lambda x, args: x.nan_to_num(0.0)),
            ),
        ),
    ),
    "max_pool_backward": Examples(
        silent=(
            Example(name="overlapping", call=_max_backward(_MAX, _MAX_GRAD, *_PLAIN)),
            Example(name="channels_last", call=_max_backward(_MAX, _MAX_GRAD, *_PLAIN, last=True)),
            Example(
                name="cube",
                call=_max_backward(
                    *(aten.max_pool3d_with_indices.default, aten.max_pool3d_with_indices_backward.default),
                    *(*_CUBE, [1, 1, 1], False),
                    dims=3,
                ),
            ),
            Example(
                name="adaptive",
                call=_max_backward(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool2d_backward.default, [4, 3]),
            ),
            Example(name="fractional", call=_fractional_backward, dtypes=_WIDE),
        ),
        fires=(
            Example(name="fractional", call=_fractional_backward, corrupt=flipped_bit, dtypes=_WIDE),
            Example(name="flipped bit", call=_max_backward(_MAX, _MAX_GRAD, *_PLAIN), corrupt=flipped_bit),
            Example(name="stale sample", call=_max_backward(_MAX, _MAX_GRAD, *_PLAIN), corrupt=stale_row),
        ),
    ),
    "average_pool": Examples(
        silent=(
            Example(name="overlapping", call=_forward(_MEAN_POOL, *_MEAN)),
            Example(name="without padding", call=_forward(_MEAN_POOL, *_CUT)),
            Example(name="ceiled with padding", call=_forward(_MEAN_POOL, *_PADDED)),
            Example(name="own divisor", call=_forward(_MEAN_POOL, *_OVERRIDE)),
            Example(name="channels_last", call=_forward(_MEAN_POOL, *_MEAN, last=True)),
            Example(name="nan and inf", call=_forward(_MEAN_POOL, *_MEAN, poisoned=True)),
            Example(name="cube", call=_forward(aten.avg_pool3d.default, *_CUBE, dims=3), dtypes=_WIDE),
            Example(name="adaptive", call=_forward(_ADAPTIVE, [4, 3])),
            Example(name="adaptive in channels_last", call=_forward(_ADAPTIVE, [4, 3], last=True)),
            Example(name="adaptive to more", call=_forward(_ADAPTIVE, [13, 8])),
            Example(name="adaptive cube", call=_forward(aten._adaptive_avg_pool3d.default, [4, 3, 2], dims=3)),
        ),
        fires=(
            Example(name="flipped bit", call=_forward(_MEAN_POOL, *_MEAN), corrupt=flipped_bit),
            Example(name="nan", call=_forward(_ADAPTIVE, [4, 3]), corrupt=planted_nan),
            Example(name="wrong divisor", call=_forward(_MEAN_POOL, *_CUT), corrupt=_wrong_divisor),
        ),
    ),
    "average_pool_backward": Examples(
        silent=(
            Example(name="overlapping", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_MEAN)),
            Example(name="without padding", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_CUT)),
            Example(name="ceiled with padding", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_PADDED)),
            Example(name="own divisor", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_OVERRIDE)),
            Example(name="channels_last", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_MEAN, last=True)),
            Example(
                name="cube",
                call=_average_backward(
                    *(aten.avg_pool3d.default, aten.avg_pool3d_backward.default),
                    *(*_CUBE, False, True, None),
                    dims=3,
                ),
                dtypes=_WIDE,
            ),
            Example(name="adaptive", call=_average_backward(_ADAPTIVE, _ADAPTIVE_GRAD, [4, 3])),
            Example(name="adaptive to more", call=_average_backward(_ADAPTIVE, _ADAPTIVE_GRAD, [13, 8])),
        ),
        fires=(
            Example(name="flipped bit", call=_average_backward(_MEAN_POOL, _MEAN_GRAD, *_MEAN), corrupt=flipped_bit),
            Example(name="stale sample", call=_average_backward(_ADAPTIVE, _ADAPTIVE_GRAD, [4, 3]), corrupt=stale_row),
        ),
    ),
}
