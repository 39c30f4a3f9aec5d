"""Cumulative sums: silent on every correct call, awake for a lost term, in place too."""

from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.routes import NUMPY, ONES, PAIRWISE
from tests.checks.random_calls import FLOATS, INTEGERS, random_calls, watching
from tests.checks.watched_calls import run_samples

aten = torch.ops.aten
CHECK = REGISTRY["cumsum"]
ROUTES = (NUMPY, PAIRWISE, ONES)


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS[:4]], ids=str)
def test_samples_of_pytorch_raise_no_alarm(dtype: torch.dtype, route: Arithmetic) -> None:
    watch = watching("cumsum", probe=Probe(arithmetic=route))
    run_samples("cumsum", dtype, watch, most=200)
    assert watch.wrong == []
    assert watch.checked["aten::cumsum"] >= 4


def test_random_layouts_and_numbers_raise_no_alarm() -> None:
    watch = watching("cumsum")
    for draws, x, dtype in random_calls(4, 300):
        watch.probe = Probe(arithmetic=draws.choose.choice(ROUTES), limit=draws.choose.choice([1e9, 500.0]))
        dim = draws.choose.randrange(-x.dim(), x.dim()) if x.dim() else 0
        with watch:
            aten.cumsum(x, dim, dtype=dtype)
            if x.is_contiguous() and dtype is None:
                aten.cumsum_(x, dim)
    assert watch.wrong == []
    assert watch.num_judged > 3 * watch.num_indeterminate > 0
    assert set(watch.checked) == {"aten::cumsum", "aten::cumsum_"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_shadows_are_as_exact_as_they_claim(dtype: torch.dtype, route: Arithmetic) -> None:
    x = torch.randn(1100, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    x *= 10.0 ** torch.linspace(-6.0, 6.0, 1100, dtype=dtype)
    probe = Probe(arithmetic=route)
    call, captured = perform(CHECK, aten.cumsum.default, (x, 0), {}, probe)
    with torch.no_grad():
        (comparison,) = CHECK.judge(call, captured, probe)
    assert isinstance(comparison.shadow_error, torch.Tensor)
    own = comparison.shadow_error + 4 * 2.0**-53 * comparison.exact.abs()
    for exact, error, true in zip(
        comparison.exact.tolist(), own.tolist(), accumulate(map(Fraction, x.tolist())), strict=True
    ):
        assert abs(Fraction(exact) - true) <= Fraction(error)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_nan_spoils_no_earlier_sum(route: Arithmetic) -> None:
    x = torch.ones(2, 9, dtype=torch.float64)
    x[0, 4] = torch.nan
    totals = route.prefix_totals(x, 1)
    assert torch.equal(totals[1], torch.arange(1.0, 10.0, dtype=torch.float64))
    assert torch.equal(totals[0, :4], torch.arange(1.0, 5.0, dtype=torch.float64))
    assert bool(totals[0, 4:].isnan().all())


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("overload", [aten.cumsum_.default, aten.cumsum.out])
def test_in_place_sums_are_judged_on_what_was_overwritten(overload: torch._ops.OpOverload, offset: float) -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    probe = Probe(arithmetic=NUMPY, limit=300.0, offset=offset)
    options = {"out": x} if overload is aten.cumsum.out else {}
    call, captured = perform(CHECK, overload, (x, 1), options, probe)
    assert captured.numel() <= 120
    assert not examine(CHECK, call, captured, probe)[0][1].wrong
    x[:, 20:] += 0.5
    assert examine(CHECK, call, captured, probe)[0][1].wrong


def test_additions_in_float32_would_be_a_warning_and_not_an_error() -> None:
    """The CPU kernel adds in float64; another that added in float32 would be less accurate, not wrong."""
    x = torch.full((20_000,), 0.1)
    probe = Probe(arithmetic=NUMPY)
    call, _ = perform(CHECK, aten.cumsum.default, (x, 0), {}, probe)
    assert not examine(CHECK, call, None, probe)[0][1].inaccurate
    total = torch.zeros(())
    for place, value in enumerate(x):
        total = total + value
        call.output[place] = total
    verdict = examine(CHECK, call, None, probe)[0][1]
    assert verdict.inaccurate
    assert not verdict.wrong
