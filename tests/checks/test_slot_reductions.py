"""Reductions by slot, segments, counts and distances: PyTorch's own samples, hard data, and sums that are conserved."""

import pytest
import torch

from numguard.checks import distances, segments
from numguard.checks.check import Probe
from numguard.checks.slot_reductions import CHECKS
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import KINDS, image
from tests.checks.watched_calls import Watch, run_samples, watches

NAMES = ("scatter_reduce", "index_reduce", "segment_reduce", "histc", "bincount", "cdist")
REDUCTIONS = ("amax", "amin", "mean", "prod")
EVERY = (*CHECKS, *segments.CHECKS, *distances.CHECKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(EVERY, Probe(arithmetic=NUMPY))
    run_samples(name, dtype, watch, most=25)
    assert watch.wrong == []


@pytest.mark.filterwarnings(r"ignore:index_reduce\(\) is in beta")  # said once in a process, by whoever comes first
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data(kind: str, include_self: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    for dtype, watch in watches(EVERY):
        base, source = image(kind, (9, 4), dtype, 1), image(kind, (60, 4), dtype, 2)
        index = torch.randint(0, 8, (60, 4), generator=generator)
        with watch:
            for reduce in REDUCTIONS:
                base.scatter_reduce(0, index, source, reduce, include_self=include_self)
                base.clone().scatter_reduce_(0, index, source, reduce, include_self=include_self)
                base.index_reduce(0, index[:, 0], source, reduce, include_self=include_self)
            for reduce in ("sum", "mean", "max", "min", "prod"):
                torch.segment_reduce(source, reduce, lengths=torch.tensor([20, 0, 39, 1]))
        assert watch.num_judged > 0
        assert watch.wrong == []


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_silent_on_hard_data(kind: str, power: float) -> None:
    for dtype in (torch.float32, torch.float64):
        watch = Watch(EVERY, Probe(arithmetic=NUMPY))
        first, second = image(kind, (2, 40, 13), dtype, 1), image(kind, (2, 33, 13), dtype, 2)
        with watch:
            torch.cdist(first, second, power)
            torch.cdist(first[:, :5], second[:, :5], power)
        assert watch.num_judged > 0
        assert watch.wrong == []


def test_means_by_segment_that_saturate_are_inaccurate_and_not_wrong() -> None:
    watch = Watch(segments.CHECKS, Probe(arithmetic=NUMPY))
    with watch:
        torch.segment_reduce(torch.ones(2000, 2, dtype=torch.bfloat16), "sum", lengths=torch.tensor([2000]))
    assert watch.wrong == []
    assert watch.inaccurate["aten::segment_reduce"] > 50.0
