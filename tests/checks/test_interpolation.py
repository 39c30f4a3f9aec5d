"""Interpolation and the gradients of borders: PyTorch's own samples, hard data in every layout, exact weights."""

import itertools
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from numguard.checks.axis_maps import Axis, cubic, filtered, linear, nearest, reflected, replicated
from numguard.checks.check import Probe
from numguard.checks.interpolation import CHECKS
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import DTYPES, KINDS, LAYOUTS, image
from tests.checks.watched_calls import Watch, run_samples, watches

CPU = torch.device("cpu")
NAMES = (
    *("nn.functional.interpolate", "nn.functional.upsample_bilinear", "nn.functional.upsample_nearest"),
    *("_upsample_bilinear2d_aa", "nn.functional.pad"),
)
SIZES = [*itertools.product((1, 2, 5, 12), (1, 3, 5, 12, 17))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=1e5, offset=0.4))
    run_samples(name, dtype, watch, most=60)
    assert watch.wrong == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, (dtype, watch) in enumerate(watches(CHECKS, limits=(1e9, 3e3))):
        x = image(kind, (2, 5, 11, 14), dtype, number, layout).requires_grad_()
        antialiased = ("bilinear", "bicubic") if dtype.itemsize > 2 else ()  # torch has no others on the CPU
        with watch:
            for y in (
                functional.interpolate(x, (23, 31)),
                functional.interpolate(x, scale_factor=(2.0, 0.7), mode="nearest-exact"),
                functional.interpolate(x, (16, 28), mode="bilinear"),
                functional.interpolate(x, (5, 40), mode="bilinear", align_corners=True),
                functional.interpolate(x, scale_factor=1.3, mode="bicubic"),
                functional.pad(x, (3, 2, 4, 1), mode="reflect"),
                functional.pad(x, (3, 2, 4, 1), mode="replicate"),
                *(functional.interpolate(x, (6, 30), mode=mode, antialias=True) for mode in antialiased),
            ):
                y.backward(image("normal", tuple(y.shape), dtype, 5, layout))
        assert len(watch.checked) == 10 + 2 * len(antialiased)
        assert watch.wrong == []


@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_linear_weights_are_those_of_the_definition(size: int, outputs: int) -> None:
    weights = linear(Axis(size=size, num_outputs=outputs), CPU).weights
    for place in range(outputs):
        source = max(Fraction(0), Fraction(size, outputs) * Fraction(2 * place + 1, 2) - Fraction(1, 2))
        expected = [max(Fraction(0), 1 - abs(min(source, Fraction(size - 1)) - i)) for i in range(size)]
        assert torch.allclose(weights[place], torch.tensor([float(part) for part in expected]).double(), atol=1e-14)


@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_weights_of_every_map_sum_to_one(size: int, outputs: int) -> None:
    for corners in (False, True):
        axis = Axis(size=size, num_outputs=outputs, align_corners=corners)
        maps = [linear(axis, CPU), cubic(axis, CPU), nearest(axis, True, CPU), nearest(axis, False, CPU)]
        maps += [filtered(axis, CPU, cubic_filter=wide) for wide in (False, True)]
        for part in maps:
            assert part.weights.shape == (outputs, size)
            assert torch.allclose(part.weights.sum(1), torch.ones(outputs).double(), atol=1e-12)
            assert bool(((part.touches > 0) | (part.weights == 0)).all())


@pytest.mark.parametrize(("size", "before", "after"), [(1, 0, 0), (4, 3, 2), (4, 0, 3), (6, -2, 1)])
def test_borders_are_those_of_the_definition(size: int, before: int, after: int) -> None:
    line = torch.arange(float(size), dtype=torch.float64)
    mirrored = functional.pad(line.reshape(1, 1, -1), (before, after), mode="reflect").reshape(-1)
    repeated = functional.pad(line.reshape(1, 1, -1), (before, after), mode="replicate").reshape(-1)
    assert (reflected(size, before, after, CPU).weights @ line).tolist() == mirrored.tolist()
    assert (replicated(size, before, after, CPU).weights @ line).tolist() == repeated.tolist()


def test_where_single_and_exact_scales_disagree_nothing_is_said() -> None:
    disputed = [
        (size, outputs)
        for size, outputs in itertools.product(range(1, 60), range(1, 60))
        if bool((nearest(Axis(size=size, num_outputs=outputs), False, CPU).slack > 0).any())
    ]
    assert 0 < len(disputed) < 400
    assert all(outputs & (outputs - 1) for _, outputs in disputed)  # by powers of two the scale is exact


def test_a_nan_shows_where_its_weight_is_not_zero() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = torch.nan
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    with watch:
        functional.interpolate(x, (8, 8), mode="bilinear")
    assert watch.num_judged == 64
    assert watch.wrong == []
    assert 16 <= watch.num_indeterminate < 40
