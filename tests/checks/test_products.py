"""Products: silent on every correct call, through underflow and overflow, awake for a lost factor."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.checks.products import row_products
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.routes import NUMPY, ONES, PAIRWISE, REDUCTION
from tests.checks.random_calls import FLOATS, INTEGERS, random_calls, watching
from tests.checks.watched_calls import run_samples

aten = torch.ops.aten
CHECK = REGISTRY["prod"]
ROUTES = (NUMPY, PAIRWISE, ONES, REDUCTION)


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS[:4]], ids=str)
def test_samples_of_pytorch_raise_no_alarm(dtype: torch.dtype, route: Arithmetic) -> None:
    watch = watching("prod", probe=Probe(arithmetic=route))
    run_samples("prod", dtype, watch, most=200)
    assert watch.wrong == []
    assert {"aten::prod", "aten::prod.dim_int"} == set(watch.checked)


def test_random_layouts_and_numbers_raise_no_alarm() -> None:
    watch = watching("prod")
    for draws, x, dtype in random_calls(6, 300):
        watch.probe = Probe(arithmetic=draws.choose.choice(ROUTES), limit=draws.choose.choice([1e9, 5000.0]))
        with watch:
            if x.dim():
                aten.prod.dim_int(x, draws.choose.randrange(x.dim()), dtype=dtype)
            aten.prod(x, dtype=dtype)
    assert watch.wrong == []
    assert watch.num_judged > watch.num_indeterminate > 0


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3, 1e-200, 1e200])
def test_shadows_are_as_exact_as_they_claim(size: float, route: Arithmetic) -> None:
    generator = torch.Generator().manual_seed(3)
    for count in (1, 2, 7, 100, 513, 1200):
        x = torch.randn(count, generator=generator, dtype=torch.float64)
        x[::2] *= size
        x[1::2] /= size
        value = Fraction(float(row_products(x.unsqueeze(0), route)[0]))
        true = math.prod(map(Fraction, x.tolist()))
        if abs(true) >= Fraction(2) ** 1023:
            assert abs(value) == Fraction(torch.finfo(torch.float64).max)
        else:
            assert abs(value - true) <= Fraction(count + 4, 2**53) * abs(true) + Fraction(1, 2**1074)
        assert (value > 0) == (true > 0) or abs(true) < Fraction(1, 2**1074)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.sampled_from([NUMPY, PAIRWISE]))
def test_integer_products_wrap_around(values: list[int], route: Arithmetic) -> None:
    probe = Probe(arithmetic=route)
    call, captured = perform(CHECK, aten.prod.default, (torch.tensor(values),), {}, probe)
    assert int(call.output) == (math.prod(values) + 2**63) % 2**64 - 2**63
    assert not examine(CHECK, call, captured, probe)[0][1].wrong
    call.output.add_(1)
    assert examine(CHECK, call, captured, probe)[0][1].wrong


def test_products_that_leave_the_range_on_the_way_are_not_judged_wrong() -> None:
    small, large = torch.full((40,), 1e-3), torch.full((40,), 1e3)
    for factors in (torch.cat([small, large]), torch.cat([large, small]), torch.stack([small, large], 1).reshape(-1)):
        probe = Probe(arithmetic=NUMPY)
        call, _ = perform(CHECK, aten.prod.default, (factors,), {}, probe)
        verdict = examine(CHECK, call, None, probe)[0][1]
        assert not verdict.wrong
        assert verdict.num_indeterminate == 1.0
