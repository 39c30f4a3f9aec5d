"""The checks of extrema, sorts and selections: exact on ties, NaN, infinities and every layout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from numguard.checks import extrema, order_statistics
from numguard.checks.check import Probe
from numguard.checks.extremum_rows import largest
from numguard.shadow.routes import NUMPY, PAIRWISE, REDUCTION
from tests.checks.random_calls import Draws
from tests.checks.watched_calls import Watch, run_samples

CHECKS = (*extrema.CHECKS, *order_statistics.CHECKS)
NAMES: tuple[str, ...] = (
    "amax",
    "amin",
    "aminmax",
    "argmax",
    "argmin",
    "cummax",
    "cummin",
    "kthvalue",
    "median",
    "nanmedian",
)
NAMES += ("max", "min", "sort", "topk", "msort")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SELECTIONS: dict[str, Callable[[Tensor, int], Any]] = {
    "max": lambda x, dim: x.max(dim),
    "min": lambda x, dim: x.min(dim),
    "amax": lambda x, dim: x.amax(dim),
    "argmin": lambda x, dim: x.argmin(dim),
    "aminmax": lambda x, dim: x.aminmax(dim=dim),
    "sort": lambda x, dim: x.sort(dim, descending=True),
    "stable sort": lambda x, dim: x.sort(dim=dim, stable=True),
    "topk": lambda x, dim: x.topk(max(1, x.shape[dim] // 2), dim, largest=False),
    "kthvalue": lambda x, dim: x.kthvalue(x.shape[dim], dim),
    "median": lambda x, dim: x.median(dim),
    "nanmedian": lambda x, dim: x.nanmedian(dim),
    "cummax": lambda x, dim: x.cummax(dim),
    "cummin": lambda x, dim: x.cummin(dim),
    "all": lambda x, dim: (x.max(), x.min(), x.median(), x.argmax(), x.nanmedian()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    run_samples(name, dtype, watch, most=25)
    assert watch.wrong == []


@pytest.mark.parametrize("name", SELECTIONS)
def test_silent_on_random_tensors_with_nan_and_ties(name: str) -> None:
    draws = Draws(29)
    watches = [Watch(CHECKS, Probe(arithmetic=route, limit=limit, offset=0.6)) for route, limit in ROUTES]
    for number in range(40):
        x = draws.tensor(DTYPES[number % 4], most=800)
        if not x.dim() or not x.numel():
            continue
        if number % 3 == 0:
            x = x.round()
        dim = draws.choose.randrange(x.dim())
        if name in ("median", "nanmedian") and x.stride(dim) == 0:
            x = x.clone(memory_format=torch.contiguous_format)  # see the test of expanded rows
        with watches[number % 2]:
            SELECTIONS[name](x, dim)
    assert sum(watch.num_judged for watch in watches) > 50
    assert [watch.wrong for watch in watches] == [[], []]


ROUTES = ((NUMPY, float("inf")), (PAIRWISE, 500.0))


@pytest.mark.parametrize("function", [torch.median, torch.nanmedian])
def test_medians_of_expanded_rows_are_wrong_exactly_where_a_copy_gives_others(function: Callable[..., Any]) -> None:
    x = torch.arange(1.0, 6.0).expand(4, 5)
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    with watch:
        values, _ = function(x, 0)
    assert bool(watch.wrong) is not torch.equal(values, x[0])


def test_the_largest_element_comes_from_no_operator_of_the_family() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0], [float("nan"), 7.0, 1.0]], dtype=torch.float64)
    for route in (NUMPY, PAIRWISE, REDUCTION):
        first, second = largest(route, x).tolist()
        assert first == 5.0
        assert second != second
