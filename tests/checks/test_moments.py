"""The checks of var and std: silent on a correct build, equal to NumPy, awake where the bound is narrow."""

import numpy as np
import pytest
import torch

from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.checks.moments import CHECKS
from numguard.checks.row_moments import moments_of
from numguard.shadow.call import OpCall
from numguard.shadow.routes import NUMPY, PAIRWISE
from tests.checks.hard_images import DTYPES, KINDS, LAYOUTS, image
from tests.checks.random_calls import Draws
from tests.checks.watched_calls import Watch, run_samples, watches

SPREADS = (torch.var, torch.std)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["var", "std", "var_mean", "std_mean"])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    assert run_samples(name, dtype, watch, most=15) > 0
    assert watch.num_judged > 0
    assert watch.wrong == []


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silent_on_random_tensors(dtype: torch.dtype) -> None:
    draws, watch = Draws(11), Watch(CHECKS, Probe(arithmetic=NUMPY))
    for _ in range(40):
        x = draws.tensor(dtype, most=2000)
        for spread in SPREADS:
            with watch:
                spread(x, draws.dims(x), correction=draws.choose.choice([0, 1, 2]))
    assert watch.num_judged > 200
    assert watch.wrong == []
    assert 0.0 < watch.worst_ratio <= 1.0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, (dtype, watch) in enumerate(watches(CHECKS, limits=(1e6, 1e6), offset=0.3)):
        x = image(kind, (3, 3, 20, 30), dtype, number, layout)
        with watch:
            torch.var_mean(x, (0, 2, 3))
            torch.std(x, -1)
            torch.var(x)
        assert watch.num_judged > 100
        assert watch.wrong == []


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e6])
def test_moments_of_long_rows_are_those_of_numpy(shift: float) -> None:
    x = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(1)) + shift
    row = moments_of(x, 1, PAIRWISE)
    assert np.allclose(row.variance.numpy(), x.double().numpy().var(axis=1), rtol=1e-10)
    assert np.allclose(row.mean.numpy(), x.double().numpy().mean(axis=1), rtol=1e-13)


def test_a_variance_off_by_a_hundred_thousandth_is_found_far_from_zero() -> None:
    x = torch.randn(8, 5000, generator=torch.Generator().manual_seed(2)) + 100.0
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, torch.ops.aten.var.correction, (x, [1]), {"correction": 1}, probe)
    wrong = OpCall(overload=call.overload, arguments=call.arguments, output=call.output * (1.0 + 1e-5))
    assert not any(verdict.wrong for _, verdict in examine(check, call, captured, probe))
    assert examine(check, wrong, captured, probe)[0][1].wrong


def test_the_difference_of_squares_is_found_where_it_cancels() -> None:
    x = torch.randn(8, 5000, generator=torch.Generator().manual_seed(3)) + 1000.0
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, torch.ops.aten.var.correction, (x, [1]), {"correction": 0}, probe)
    naive = (x * x).mean(1) - x.mean(1) ** 2
    wrong = OpCall(overload=call.overload, arguments=call.arguments, output=naive)
    assert examine(check, wrong, captured, probe)[0][1].wrong
