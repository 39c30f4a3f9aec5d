"""Windows that are added up again: PyTorch's own samples, hard data, and the gradient of fractional pools."""

import pytest
import torch
from torch.nn import functional

from numguard.checks import folds, pooling
from numguard.checks.check import Probe
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import DTYPES, KINDS, LAYOUTS, image
from tests.checks.watched_calls import Watch, run_samples, watches

EVERY = (*folds.CHECKS, *pooling.CHECKS)
NAMES = ("nn.functional.unfold", "nn.functional.fold", "unfold", "unfold_copy", "nn.functional.fractional_max_pool2d")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(EVERY, Probe(arithmetic=NUMPY, limit=1e5, offset=0.4))
    run_samples(name, dtype, watch, most=20)
    assert watch.wrong == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, (dtype, watch) in enumerate(watches(EVERY, limits=(1e9, 3e3))):
        x = image(kind, (2, 5, 11, 14), dtype, number, layout).requires_grad_()
        with watch:
            columns = functional.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1))
            columns.backward(image(kind, tuple(columns.shape), dtype, 5))
            windows = x.unfold(2, 4, 3)
            windows.backward(image(kind, tuple(windows.shape), dtype, 6))
            functional.fold(columns, (11, 14), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1))
            if dtype.itemsize > 2:
                pooled = functional.fractional_max_pool2d(x, 2, output_size=(4, 6))
                pooled.backward(image("normal", tuple(pooled.shape), dtype, 7))
        assert watch.checked["aten::col2im"] == 2
        assert watch.checked["aten::unfold_backward"] == 1
        assert watch.wrong == []


def test_windows_that_saturate_in_16_bits_are_inaccurate_and_not_wrong() -> None:
    watch = Watch(folds.CHECKS, Probe(arithmetic=NUMPY))
    x = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
    with watch:
        windows = x.unfold(0, 600, 1)
        windows.backward(torch.ones_like(windows))
    assert watch.wrong == []
    assert watch.inaccurate["aten::unfold_backward"] > 10.0
