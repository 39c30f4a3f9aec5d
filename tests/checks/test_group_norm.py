"""The checks of group normalisation: silent on a correct build, strict where a layout cancels."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.checks.group_norm import CHECKS
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import NUMPY, PAIRWISE
from numguard.shadow.verdict import Verdict
from tests.checks.hard_images import DTYPES, KINDS, image
from tests.checks.watched_calls import Watch, run_samples

aten = torch.ops.aten
SHAPES = ((3, 6, 9, 11), (1, 4, 60, 61), (5, 8), (3, 4, 17))


def judged(x: Tensor, groups: int) -> dict[str, tuple[Comparison, Verdict]]:
    sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), groups)
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, aten.native_group_norm.default, (x, None, None, *sizes, 1e-5), {}, probe)
    return {comparison.output: (comparison, verdict) for comparison, verdict in examine(check, call, captured, probe)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silent_on_the_samples_of_pytorch(dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    assert run_samples("nn.functional.group_norm", dtype, watch) > 0
    assert watch.num_judged > 0
    assert watch.wrong == []


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, dtype in enumerate(DTYPES):
        for shape in SHAPES:
            watch = Watch(CHECKS, Probe(arithmetic=(NUMPY, PAIRWISE)[number % 2], limit=5e5, offset=0.6))
            x = image(kind, shape, dtype, number, layout).requires_grad_()
            wide = torch.float32 if number % 2 and dtype != torch.float64 else dtype
            weight, bias = (torch.linspace(-1.0, 2.0, shape[1]).to(wide).requires_grad_() for _ in range(2))
            with watch:
                y = functional.group_norm(x, 2, weight, bias)
                y.backward(image("normal", shape, dtype, 7, layout))
            assert watch.num_judged > 0
            assert watch.wrong == []


def test_a_layout_that_cancels_is_inaccurate_and_not_wrong() -> None:
    """The same numbers in two layouts: an error within the bound of the one that takes the difference of squares."""
    x = image("normal", (2, 8, 32, 32), torch.float32, 3) + 3000.0
    plain, last = judged(x, 2), judged(x.contiguous(memory_format=torch.channels_last), 2)
    assert not any(verdict.wrong for _, verdict in (*plain.values(), *last.values()))
    assert max(verdict.worst_strict_ratio for _, verdict in plain.values()) <= 1.0


def test_a_difference_of_squares_is_wrong_in_the_contiguous_layout() -> None:
    x = image("normal", (2, 8, 32, 32), torch.float32, 3) + 1000.0
    rows = x.reshape(4, -1)
    mean = rows.mean(1, keepdim=True)
    rstd = ((rows * rows).mean(1, keepdim=True) - mean * mean + 1e-5).clamp(min=1e-5).rsqrt()
    y = ((rows - mean) * rstd).reshape(x.shape)
    sizes = (2, 8, 1024, 2)
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, aten.native_group_norm.default, (x, None, None, *sizes, 1e-5), {}, probe)
    wrong: Any = type(call)(
        overload=call.overload, arguments=call.arguments, output=(y, mean.reshape(2, 2), rstd.reshape(2, 2))
    )
    assert any(verdict.wrong for _, verdict in examine(check, wrong, captured, probe))
