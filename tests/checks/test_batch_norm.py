"""The checks of batch and instance normalisation: silent on a correct build in every layout, awake for small faults."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from numguard.checks.batch_norm import CHECKS
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.shadow.call import OpCall, is_repeatable
from numguard.shadow.routes import NUMPY, PAIRWISE
from tests.checks.hard_images import DTYPES, KINDS, LAYOUTS, image
from tests.checks.watched_calls import Watch, run_samples

aten = torch.ops.aten
SHAPES = ((4, 6, 9, 11), (2, 3, 60, 61), (8, 5), (3, 4, 17))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nn.functional.batch_norm", "native_batch_norm", "nn.functional.instance_norm"])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    assert run_samples(name, dtype, watch, most=12) > 0
    assert watch.num_judged > 0
    assert watch.wrong == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, dtype in enumerate(DTYPES):
        for shape in SHAPES:
            watch = Watch(CHECKS, Probe(arithmetic=(NUMPY, PAIRWISE)[number % 2]))
            x = image(kind, shape, dtype, number, layout).requires_grad_()
            wide = torch.float32 if number % 2 and dtype != torch.float64 else dtype
            module = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1], dtype=wide)
            with watch:
                for training in (True, False):
                    y = module.train(training)(x)
                    y.backward(image("normal", shape, dtype, 7, layout))
            assert watch.num_judged > 0
            assert watch.wrong == []


@pytest.mark.parametrize("num_threads", [1, 2])
def test_silent_with_several_threads(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for dtype in DTYPES:
            watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=1e6))
            for layout in ("contiguous", "channels_last"):
                x = image("shifted", (6, 4, 40, 41), dtype, 3, layout).requires_grad_()
                weight = torch.ones(4, dtype=dtype, requires_grad=True)
                with watch:
                    y = functional.batch_norm(x, None, None, weight, weight, training=True)
                    y.backward(image("normal", (6, 4, 40, 41), dtype, 4, layout))
            assert watch.num_judged > 0
            assert watch.wrong == []
    finally:
        torch.set_num_threads(before)


def test_long_channels_are_read_in_pieces_and_sampled() -> None:
    x = image("shifted", (4, 3, 200, 210), torch.float32, 5)
    probe = Probe(arithmetic=NUMPY, limit=1e5, offset=0.7, most=1e7)
    watch = Watch(CHECKS, probe)
    with watch:
        functional.batch_norm(x, torch.zeros(3), torch.ones(3), training=True)
    assert watch.not_covered == []
    assert watch.num_judged > 1000
    assert watch.wrong == []


def test_running_statistics_are_moved_once() -> None:
    """A second execution would move them again: none is made to confirm a suspicion."""
    assert not is_repeatable(aten.native_batch_norm.default)
    assert not is_repeatable(aten._native_batch_norm_legit.default)
    assert is_repeatable(aten.native_group_norm.default)


def test_a_running_variance_with_the_wrong_divisor_is_found() -> None:
    """With n in place of n - 1 elements: one part in 1,000 of a tenth of it."""
    x, mean, variance = torch.randn(10, 2, 10, 10), torch.zeros(2), torch.ones(2)
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(
        check, aten.native_batch_norm.default, (x, None, None, mean, variance, True, 0.1, 1e-5), {}, probe
    )
    right = {comparison.output: verdict.wrong for comparison, verdict in examine(check, call, captured, probe)}
    variance.sub_(1e-4 * x.double().var((0, 2, 3)).float())
    wrong = {comparison.output: verdict.wrong for comparison, verdict in examine(check, call, captured, probe)}
    assert not any(right.values())
    assert {name for name, found in wrong.items() if found} == {"running_var"}


def test_one_dropped_row_of_a_sum_is_found() -> None:
    x, dy = image("normal", (4, 3, 16, 16), torch.float32, 1), image("normal", (4, 3, 16, 16), torch.float32, 2)
    _, mean, rstd = aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)
    arguments = (x, None, None, None, mean, rstd, True, 1e-5, [True, False, False])
    check, probe = CHECKS[1], Probe(arithmetic=NUMPY)
    call, captured = perform(check, aten.native_batch_norm_backward.default, (dy, *arguments), {}, probe)
    fewer = dy.clone()
    fewer[3, :, 15] = 0
    wrong = aten.native_batch_norm_backward(fewer, *arguments)
    altered = OpCall(overload=call.overload, arguments=call.arguments, output=wrong)
    assert not any(verdict.wrong for _, verdict in examine(check, call, captured, probe))
    assert any(verdict.wrong for _, verdict in examine(check, altered, captured, probe))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_equal_elements_without_eps_are_not_judged(dtype: torch.dtype) -> None:
    x = torch.full((4, 6), 0.1, dtype=dtype)
    x[:, 3] = torch.arange(4.0).to(dtype)
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    with watch:
        torch.ops.aten.native_batch_norm(x, None, None, None, None, True, 0.1, 0.0)
    assert watch.num_judged > watch.num_indeterminate > 0
    assert watch.wrong == []


@pytest.mark.parametrize("gap", [0, 1, 3, 8, 12])
def test_two_samples_of_every_pair_of_significands_are_silent(gap: int) -> None:
    significands = 1.0 + torch.arange(128.0) / 128.0
    first = significands.repeat_interleave(256)
    second = torch.cat((significands, -significands)).repeat(128) * 2.0**-gap
    x = torch.stack((first, second)).to(torch.bfloat16)
    ones = torch.ones(x.shape[1], dtype=torch.bfloat16)
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    with watch:
        torch.ops.aten.native_batch_norm(x, ones, ones * 0, ones * 0, ones.clone(), True, 0.1, 1e-5)
    assert watch.num_judged == 6 * x.shape[1]
    assert watch.wrong == []
