"""The checks of pooling: PyTorch's own samples, hard data in every layout, and the windows themselves."""

import itertools

import pytest
import torch
from torch.nn import functional

from numguard.checks.check import Probe
from numguard.checks.pooling import CHECKS
from numguard.checks.windows import Sliding, adaptive, adaptive_under
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import KINDS, LAYOUTS, image
from tests.checks.watched_calls import Watch, run_samples, watches

POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
NAMES = [f"nn.functional.{pool}{dims}d" for pool in POOLS for dims in (1, 2, 3)]
CPU = torch.device("cpu")
ALL = slice(None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=2e4, offset=0.4))
    if run_samples(name, dtype, watch, most=12):
        assert watch.wrong == []
    else:
        assert dtype is torch.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, (dtype, watch) in enumerate(watches(CHECKS, limits=(1e9, 3e3))):
        x = image(kind, (2, 5, 11, 14), dtype, number, layout).requires_grad_()
        with watch:
            for y in (
                functional.max_pool2d(x, 3, 2, 1),
                functional.avg_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True, count_include_pad=number % 2 == 0),
                functional.adaptive_avg_pool2d(x, (4, 5)),
                functional.adaptive_max_pool2d(x, (3, 7)),
            ):
                y.backward(image("normal", tuple(y.shape), dtype, 5, layout))
        assert len(watch.checked) == 8
        assert watch.wrong == []


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [*itertools.product((1, 3), (1, 2), (0, 1), (1, 2))]
)
def test_windows_and_their_adjoint_hold_the_same_pairs(kernel: int, stride: int, padding: int, dilation: int) -> None:
    axis = Sliding(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    size = 9
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    over, under = axis.over(ALL, outputs, size, CPU), axis.under(ALL, size, outputs, CPU)
    forward = {(o, int(i)) for o in range(outputs) for i in over.positions[o][over.valid[o]]}
    backward = {(int(o), i) for i in range(size) for o in under.positions[i][under.valid[i]]}
    assert forward == backward
    assert forward


@pytest.mark.parametrize(("size", "outputs"), [*itertools.product((1, 4, 7, 12), (1, 3, 5, 12, 17))])
def test_adaptive_windows_are_those_of_the_definition(size: int, outputs: int) -> None:
    over, under = adaptive(ALL, outputs, size, CPU), adaptive_under(ALL, size, outputs, CPU)
    expected = {(o, i) for o in range(outputs) for i in range(o * size // outputs, -(-(o + 1) * size // outputs))}
    assert {(o, int(i)) for o in range(outputs) for i in over.positions[o][over.valid[o]]} == expected
    assert {(int(o), i) for i in range(size) for o in under.positions[i][under.valid[i]]} == expected
