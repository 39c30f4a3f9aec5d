"""Calls of folds that their checks must be silent about, and faults they must find."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Generator

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan, stale_row

aten = torch.ops.aten


def _fold(
    kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int], batched: bool = True
) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        image = torch.randn(2, 3, 9, 8, generator=generator, dtype=torch.float64).to(dtype)
        settings = (list(kernel), list(dilation), list(padding), list(stride))
        columns = aten.im2col(image, *settings)
        return aten.col2im.default, (columns if batched else columns[0], [9, 8], *settings), {}

    return call


def _unfold(dim: int, size: int, step: int) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        windows = torch.zeros(4, 9, 5).unfold(dim, size, step).shape
        grad = torch.randn(windows, generator=generator, dtype=torch.float64).to(dtype)
        return aten.unfold_backward.default, (grad, [4, 9, 5], dim, size, step), {}

    return call


_FOLD, _LINES = _fold((3, 2), (1, 1), (1, 0), (1, 1)), _unfold(1, 4, 2)

EXAMPLES: Final = {
    "fold": Examples(
        silent=(
            Example(name="overlapping", call=_FOLD),
            Example(name="dilated", call=_fold((2, 2), (2, 3), (0, 2), (2, 1))),
            Example(name="apart", call=_fold((2, 2), (1, 1), (0, 0), (3, 2), batched=False)),
        ),
        fires=(
            Example(name="flipped bit", call=_FOLD, corrupt=flipped_bit),
            Example(name="nan", call=_FOLD, corrupt=planted_nan),
            Example(name="stale image", call=_FOLD, corrupt=stale_row),
        ),
    ),
    "unfold_backward": Examples(
        silent=(
            Example(name="middle", call=_LINES),
            Example(name="first", call=_unfold(0, 2, 1)),
            Example(name="apart", call=_unfold(-1, 1, 3)),
        ),
        fires=(
            Example(name="flipped bit", call=_LINES, corrupt=flipped_bit),
            Example(name="stale row", call=_LINES, corrupt=stale_row),
        ),
    ),
}
