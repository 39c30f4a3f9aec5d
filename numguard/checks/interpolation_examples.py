"""Calls of interpolation and of borders that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.batch_norm_examples import channels_last
from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan, stale_row

aten = torch.ops.aten
SIZES: Final = (7, 9, 5)


def _image(dtype: torch.dtype, generator: Generator, dims: int, poisoned: bool = False) -> Tensor:
    x = torch.randn((2, 3, *SIZES[:dims]), generator=generator, dtype=torch.float64)
    if poisoned:
        x.view(-1)[5], x.view(-1)[40] = torch.nan, torch.inf
    return x.to(dtype)


def _forward(op: Any, *sizes: int, last: bool = False, poisoned: bool = False, **options: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = _image(dtype, generator, len(sizes), poisoned)
        return op, (channels_last(x) if last else x, list(sizes)), options

    return call


def _backward(op: Any, *sizes: int, last: bool = False, **options: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        grad = torch.randn((2, 3, *sizes), generator=generator, dtype=torch.float64).to(dtype)
        given = channels_last(grad) if last else grad
        return op, (given, list(sizes), [2, 3, *SIZES[: len(sizes)]]), options

    return call


def _padding(forward: Any, op: Any, *pads: int) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = _image(dtype, generator, len(pads) // 2)
        y = forward(x, list(pads))
        grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)
        return op, (grad, x, list(pads)), {}

    return call


def _shifted(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result moved by one element, as if the corners were aligned in another way."""
    return output.roll(1, -1)


_NEAREST, _EXACT = aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default
_LINEAR, _CUBIC = aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default
_CORNERS: Final = {"align_corners": True}
_HALVES: Final = {"align_corners": False}
_LINEAR_GRAD, _CUBIC_GRAD = aten.upsample_bilinear2d_backward.default, aten.upsample_bicubic2d_backward.default
_FACTORS: Final[dict[str, Any]] = {**_HALVES, "scales_h": 1.7, "scales_w": 2.3}
_WIDE: Final = (torch.float32, torch.float64)
_LINE_PADS, _PADS, _CUBE_PADS = (2, 3), (2, 3, 1, 4), (1, 2, 0, 3, 2, 1)

EXAMPLES: Final = {
    "interpolate": Examples(
        silent=(
            Example(name="nearest", call=_forward(_NEAREST, 15, 21)),
            Example(name="nearest in channels_last", call=_forward(_NEAREST, 15, 21, last=True)),
            Example(name="nearest beside nan and inf", call=_forward(_NEAREST, 15, 21, poisoned=True)),
            Example(name="nearest in a cube", call=_forward(aten.upsample_nearest3d.default, 9, 14, 3)),
            Example(name="exact nearest", call=_forward(_EXACT, 5, 20)),
            Example(name="line", call=_forward(aten.upsample_linear1d.default, 16, **_HALVES)),
            Example(name="bilinear", call=_forward(_LINEAR, 15, 21, **_HALVES)),
            Example(name="aligned corners", call=_forward(_LINEAR, 15, 21, **_CORNERS)),
            Example(name="bilinear in channels_last", call=_forward(_LINEAR, 15, 21, last=True, **_HALVES)),
            Example(name="given factors", call=_forward(_LINEAR, 11, 20, **_FACTORS)),
            Example(name="smaller", call=_forward(_LINEAR, 3, 4, **_HALVES)),
            Example(name="nan and inf", call=_forward(_LINEAR, 15, 21, poisoned=True, **_HALVES)),
            Example(name="trilinear", call=_forward(aten.upsample_trilinear3d.default, 9, 14, 8, **_HALVES)),
            Example(name="bicubic", call=_forward(_CUBIC, 15, 21, **_HALVES)),
            Example(name="bicubic with aligned corners", call=_forward(_CUBIC, 15, 6, **_CORNERS)),
            Example(
                name="antialiased", call=_forward(aten._upsample_bilinear2d_aa.default, 3, 5, **_HALVES), dtypes=_WIDE
            ),
            Example(
                name="antialiased cubic",
                call=_forward(aten._upsample_bicubic2d_aa.default, 3, 12, **_HALVES),
                dtypes=_WIDE,
            ),
        ),
        fires=(
            Example(name="flipped bit", call=_forward(_LINEAR, 15, 21, **_HALVES), corrupt=flipped_bit),
            Example(name="nan", call=_forward(_CUBIC, 15, 21, **_HALVES), corrupt=planted_nan),
            Example(name="neighbour", call=_forward(_NEAREST, 15, 21), corrupt=_shifted),
            Example(name="shifted", call=_forward(_LINEAR, 15, 21, **_CORNERS), corrupt=_shifted),
            Example(name="stale image", call=_forward(_CUBIC, 15, 21, **_HALVES), corrupt=stale_row),
        ),
    ),
    "interpolate_backward": Examples(
        silent=(
            Example(name="nearest", call=_backward(aten.upsample_nearest2d_backward.default, 15, 21)),
            Example(name="exact nearest", call=_backward(aten._upsample_nearest_exact2d_backward.default, 15, 4)),
            Example(name="line", call=_backward(aten.upsample_linear1d_backward.default, 16, **_HALVES)),
            Example(name="bilinear", call=_backward(_LINEAR_GRAD, 15, 21, **_HALVES)),
            Example(name="bilinear in channels_last", call=_backward(_LINEAR_GRAD, 15, 21, last=True, **_HALVES)),
            Example(name="aligned corners", call=_backward(_LINEAR_GRAD, 15, 3, **_CORNERS)),
            Example(name="given factors", call=_backward(_LINEAR_GRAD, 11, 20, **_FACTORS)),
            Example(name="trilinear", call=_backward(aten.upsample_trilinear3d_backward.default, 9, 14, 8, **_HALVES)),
            Example(name="bicubic", call=_backward(_CUBIC_GRAD, 15, 21, **_HALVES)),
            Example(
                name="antialiased",
                call=_backward(aten._upsample_bilinear2d_aa_backward.default, 3, 5, **_HALVES),
                dtypes=_WIDE,
            ),
        ),
        fires=(
            Example(name="flipped bit", call=_backward(_LINEAR_GRAD, 15, 21, **_HALVES), corrupt=flipped_bit),
            Example(name="nan", call=_backward(_CUBIC_GRAD, 15, 21, **_HALVES), corrupt=planted_nan),
            Example(
                name="stale image",
                call=_backward(aten.upsample_nearest2d_backward.default, 15, 21),
                corrupt=stale_row,
            ),
        ),
    ),
    "padding_backward": Examples(
        silent=(
            Example(
                name="mirrored line",
                call=_padding(aten.reflection_pad1d, aten.reflection_pad1d_backward.default, *_LINE_PADS),
            ),
            Example(
                name="mirrored", call=_padding(aten.reflection_pad2d, aten.reflection_pad2d_backward.default, *_PADS)
            ),
            Example(
                name="repeated", call=_padding(aten.replication_pad2d, aten.replication_pad2d_backward.default, *_PADS)
            ),
            Example(
                name="repeated cube",
                call=_padding(aten.replication_pad3d, aten.replication_pad3d_backward.default, *_CUBE_PADS),
            ),
        ),
        fires=(
            Example(
                name="flipped bit",
                call=_padding(aten.reflection_pad2d, aten.reflection_pad2d_backward.default, *_PADS),
                corrupt=flipped_bit,
            ),
            Example(
                name="shifted",
                call=_padding(aten.replication_pad2d, aten.replication_pad2d_backward.default, *_PADS),
                corrupt=_shifted,
            ),
        ),
    ),
}
