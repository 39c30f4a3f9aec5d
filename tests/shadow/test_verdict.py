"""The verdict that is formed in host memory is the one that a device would form."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from numguard.checks import REGISTRY, Probe
from numguard.checks.examination import perform
from numguard.numerics.error_bounds.judgement import judge
from numguard.shadow.comparison import Comparison, NotCovered
from numguard.shadow.routes import routes_for
from numguard.shadow.verdict import WIDTH, Verdict, evaluate, evaluate_on_host, read


def same(comparison: Comparison) -> Verdict:
    """Return the verdict, both being equal: counts exactly, the rest to a few roundings of float64, which may also
    break a tie.
    """
    device, host = read(evaluate(comparison)), evaluate_on_host(comparison)
    for name in ("num_elements", "num_indeterminate", "num_wrong", "num_inaccurate", "num_overflowed"):
        assert getattr(host, name) == getattr(device, name), name
    assert (host.wrong, host.inaccurate) == (device.wrong, device.inaccurate)
    names = ["worst_ratio", "worst_strict_ratio"]
    if host.worst_index == device.worst_index:
        names += ["worst_computed", "worst_exact", "worst_bound", "worst_strict_bound"]
    for name in names:
        assert getattr(host, name) == pytest.approx(getattr(device, name), rel=1e-12, abs=1e-300, nan_ok=True), name
    # Large ratios of both signs cancel in the mean.
    ratios = judge(
        comparison.computed,
        comparison.exact,
        comparison.strict,
        shadow_error=comparison.shadow_error,
        rounds_output=comparison.rounds_output,
        propagates_nonfinite=comparison.propagates_nonfinite,
    ).ratio
    largest = max((ratio for ratio in ratios.flatten().tolist() if math.isfinite(ratio)), default=0.0)
    assert host.mean_ratio == pytest.approx(device.mean_ratio, rel=1e-12, abs=1e-12 * largest)
    return host


def comparisons(name: str) -> Iterator[Comparison]:
    check = REGISTRY[name]
    for example in (*check.silent, *check.fires):
        for dtype in example.dtypes:
            overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(1))
            for route in routes_for(check.family, "cpu"):
                probe = Probe(arithmetic=route)
                try:
                    call, captured = perform(check, overload, args, kwargs, probe)
                    with torch.no_grad():
                        yield from check.judge(call, captured, probe)
                except NotCovered:
                    continue


@pytest.mark.parametrize("name", REGISTRY)
def test_both_verdicts_are_equal_on_every_example(name: str) -> None:
    count = 0
    for comparison in comparisons(name):
        same(comparison)
        count += 1
    assert count > 0 or not REGISTRY[name].silent


TINY = 2.0**-149
VALUES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    TINY,
    -TINY,
    2.0**-130,
    3.4e38,
    -3.4e38,
    torch.nan,
    torch.inf,
    -torch.inf,
    1.0 + 2.0**-20,
]


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("propagates", [True, False])
@pytest.mark.parametrize("bound", [0.0, 1e-7, 1e-3, torch.inf, torch.nan])
@pytest.mark.parametrize("permissive", [None, 1e-2, "tensor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_both_verdicts_are_equal_on_every_pair_of_values(
    rounds: bool, propagates: bool, bound: float, permissive: float | str | None, dtype: torch.dtype
) -> None:
    computed = torch.tensor(VALUES).to(dtype).unsqueeze(1).expand(-1, len(VALUES))
    exact = torch.tensor(VALUES, dtype=torch.float64).expand(len(VALUES), -1)
    lenient: Tensor | float | None = (
        torch.full((len(VALUES), 1), 0.1).double() if isinstance(permissive, str) else permissive
    )
    verdict = same(
        Comparison(
            output="result",
            computed=computed,
            exact=exact,
            strict=bound,
            permissive=lenient,
            shadow_error=1e-12,
            rounds_output=rounds,
            propagates_nonfinite=propagates,
        )
    )
    assert verdict.num_elements == len(VALUES) ** 2


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_are_compared_as_they_are(dtype: torch.dtype) -> None:
    computed = torch.tensor([0, 1, 1, 0]).to(dtype)
    exact = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    comparison = Comparison(output="result", computed=computed, exact=exact, strict=0.0, rounds_output=False)
    same(comparison)
    assert read(evaluate(comparison)).num_wrong == 1


def test_an_empty_comparison_has_nothing_to_say() -> None:
    empty = Comparison(output="result", computed=torch.ones(0), exact=torch.ones(0).double(), strict=0.0)
    assert read(evaluate(empty)) == evaluate_on_host(empty) == tuple([0.0] * WIDTH)
    assert not read(evaluate(empty)).wrong
