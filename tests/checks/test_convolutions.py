"""The checks of convolutions: every form on hard data, sampled, in pieces, and against the plain definition."""

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from numguard.checks import convolution_forms
from numguard.checks.check import Probe
from numguard.checks.convolutions import CHECKS, precision_of
from numguard.checks.examination import examine, perform
from numguard.shadow.call import OpCall
from numguard.shadow.routes import NUMPY, PAIRWISE
from tests.checks.hard_images import DTYPES, KINDS, image
from tests.checks.watched_calls import Watch, run_samples

aten = torch.ops.aten
NAMES = [f"nn.functional.conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)]


def random_call(choose: random.Random, kind: str, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
    """Return arguments of ``aten::convolution`` with odd strides, dilations, groups and layouts."""
    dims, groups, transposed = choose.choice([1, 2, 2, 3]), choose.choice([1, 1, 2, 4]), choose.random() < 0.4
    channels, out = groups * choose.randrange(1, 4), groups * choose.randrange(1, 4)
    sizes = tuple(choose.randrange(6, 10) for _ in range(dims))
    layout = choose.choice(["contiguous", "channels_last", "strided"])
    x = image(kind, (choose.randrange(1, 4), channels, *sizes), dtype, seed, layout)
    kernel = tuple(choose.choice([1, 2, 3]) for _ in range(dims))
    shape = (channels, out // groups, *kernel) if transposed else (out, channels // groups, *kernel)
    weight = image("normal", shape, dtype, seed + 1)
    stride, padding, dilation = ([choose.choice([1, 2, 3][:most]) for _ in range(dims)] for most in (3, 1, 2))
    padding = [number - 1 for number in padding]
    bias = image("normal", (out, 1), dtype, seed + 2)[:, 0] if choose.random() < 0.5 else None
    return x, weight, bias, stride, padding, dilation, transposed, [0] * dims, groups


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=2e4, offset=0.4))
    if not run_samples(name, dtype, watch, most=4):
        assert dtype in (torch.float16, torch.bfloat16)
        return
    assert watch.num_judged > 0
    assert watch.wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_form(kind: str) -> None:
    choose = random.Random(kind)
    # A NaN in 16 bits may reach results of this build whose windows do not hold it: the check is right to object.
    dtypes = [dtype for dtype in DTYPES if kind != "nan" or dtype in (torch.float32, torch.float64)]
    for number, dtype in itertools.product(range(6), dtypes):
        route, limit = choose.choice([(NUMPY, float("inf")), (NUMPY, 3e4), (PAIRWISE, 2e3)])
        watch = Watch(CHECKS, Probe(arithmetic=route, limit=limit, offset=choose.random()))
        arguments = random_call(choose, kind, dtype, number)
        bias_sizes = None if arguments[2] is None else list(arguments[2].shape)
        with watch:
            y = aten.convolution(*arguments)
            grad = image("normal", tuple(y.shape), dtype, number + 3)
            mask = [True, True, bias_sizes is not None]
            aten.convolution_backward(grad, *arguments[:2], bias_sizes, *arguments[3:], mask)
        assert watch.num_judged > 0
        assert watch.wrong == [], arguments[3:]


def test_pieces_and_the_whole_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = random_call(random.Random(3), "normal", torch.float32, 1)
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, aten.convolution.default, arguments, {}, probe)
    whole = check.judge(call, captured, probe)[0]
    monkeypatch.setattr(convolution_forms, "CHUNK", 50)
    pieces = check.judge(call, captured, probe)[0]
    assert torch.allclose(whole.exact, pieces.exact, rtol=1e-13, atol=1e-13)
    assert torch.equal(whole.computed, pieces.computed)


def test_shadow_equals_the_definition() -> None:
    x, weight = (image("normal", shape, torch.float64, 1) for shape in ((1, 2, 5, 5), (3, 2, 2, 2)))
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    rest = (None, [2, 1], [1, 0], [1, 2], False, [0, 0], 1)
    call, captured = perform(check, aten.convolution.default, (x, weight, *rest), {}, probe)
    exact = check.judge(call, captured, probe)[0].exact.reshape(call.output.shape)

    def value(channel: int, row: int, column: int) -> float:
        total = 0.0
        for c, i, j in itertools.product(range(2), repeat=3):
            r, s = 2 * row - 1 + i, column + 2 * j
            if 0 <= r < 5 and 0 <= s < 5:
                total += float(x[0, c, r, s] * weight[channel, c, i, j])
        return total

    places = itertools.product(range(3), range(exact.shape[2]), range(exact.shape[3]))
    assert all(abs(float(exact[0, c, r, s]) - value(c, r, s)) < 1e-12 for c, r, s in places)


def _altered(output: tuple[Tensor, ...], part: int) -> tuple[Tensor, ...]:
    changed = output[part].clone()
    changed.view(-1)[changed.numel() // 2] += 0.02 * changed.abs().max()
    return tuple(changed if number == part else value for number, value in enumerate(output))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_two_per_cent_of_one_gradient_element_are_found(part: int) -> None:
    x, weight = image("normal", (2, 4, 9, 9), torch.float32, 1), image("normal", (6, 2, 3, 3), torch.float32, 2)
    rest = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    grad = image("normal", tuple(aten.convolution(x, weight, None, *rest).shape), torch.float32, 3)
    check, probe = CHECKS[1], Probe(arithmetic=NUMPY)
    arguments = (grad, x, weight, [6], *rest, [True] * 3)
    call, captured = perform(check, aten.convolution_backward.default, arguments, {}, probe)
    wrong = OpCall(overload=call.overload, arguments=call.arguments, output=_altered(call.output, part))
    found = [verdict.wrong for _, verdict in examine(check, wrong, captured, probe)]
    assert [number for number, is_wrong in enumerate(found) if is_wrong] == [part]


def test_what_stands_behind_the_bound_is_said() -> None:
    assert precision_of(torch.float32, "cpu", 2).permissive.model == "calibrated"
    assert precision_of(torch.float32, "cuda", 2).permissive.model == "assumed"
    assert precision_of(torch.float16, "cpu", 11).permissive.num_partials == 11
