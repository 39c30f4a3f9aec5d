"""Cumulative products and coalescing: PyTorch's own samples, hard data, and what exact rationals say."""

from fractions import Fraction

import pytest
import torch

from numguard.checks import coalescing, cumulative_products, products
from numguard.checks.check import Probe
from numguard.checks.cumulative_products import prefix_products
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import DTYPES, KINDS, image
from tests.checks.watched_calls import Watch, run_samples, watches

EVERY = (*cumulative_products.CHECKS, *products.CHECKS, *coalescing.CHECKS)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("name", ["cumprod", "masked.cumprod"])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(EVERY, Probe(arithmetic=NUMPY, limit=4e3, offset=0.7))
    run_samples(name, dtype, watch)
    assert watch.wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data(kind: str) -> None:
    for number, (dtype, watch) in enumerate(watches(EVERY)):
        x = image(kind, (7, 130), dtype, number)
        with watch:
            for dim in (0, 1):
                x.cumprod(dim)
                x.clone().cumprod_(dim)
                x.cumprod(dim, dtype=torch.float32)
            index = torch.randint(0, 4, (2, 130), generator=torch.Generator().manual_seed(2))
            torch.sparse_coo_tensor(index, x.t().contiguous(), (4, 4, 7), check_invariants=True).coalesce()
        assert watch.checked["aten::cumprod"] == 4
        assert watch.checked["aten::cumprod_"] == 2
        assert watch.checked["aten::_coalesce"] >= 4
        assert watch.wrong == []


def test_prefix_products_are_those_of_rationals() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(90, generator=generator, dtype=torch.float64) * 2.0
    product = Fraction(1)
    for number, (factor, value) in enumerate(zip(x.tolist(), prefix_products(x).tolist(), strict=True)):
        product *= Fraction(factor)
        assert abs(Fraction(value) - product) <= abs(product) * (number + 1) * Fraction(1, 2**53)


def test_prefix_products_come_back_from_beyond_the_range() -> None:
    x = torch.tensor([1e300, 1e300, 1e-300, 1e-300, 1e-300, 1e-300, 1e300], dtype=torch.float64)
    value = prefix_products(x)
    assert float(value[1]) == torch.finfo(torch.float64).max
    assert value[[3, 6]].tolist() == pytest.approx([1.0, 1e-300], rel=1e-13)
    assert float(prefix_products(torch.tensor([2.0, torch.nan, 0.0]).double())[2]) != 0.0


def test_the_last_cumulative_product_is_the_product_within_both_bounds() -> None:
    x = (1.0 + 0.01 * torch.randn(4, 300, generator=torch.Generator().manual_seed(1))).bfloat16()
    watch = Watch(EVERY, Probe(arithmetic=NUMPY))
    with watch:
        last, whole = x.cumprod(1)[:, -1], x.prod(1)
    assert watch.wrong == []
    assert set(watch.inaccurate) <= {"aten::prod.dim_int"}  # in 16 bits prod adds up what cumprod does not
    assert not torch.equal(last, whole)
