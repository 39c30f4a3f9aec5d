"""The checks of the negative log likelihood: silent on correct calls, equal to fractions, faults found."""

from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks.check import Check, Example, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.losses import CHECKS, replays
from numguard.checks.observed_order import cascade_height, cascade_total
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import NUMPY, PAIRWISE
from numguard.shadow.verdict import Verdict
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

aten = torch.ops.aten
BY_OP = {op: check for check in CHECKS for op in check.ops}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NONE, MEAN, SUM = 0, 1, 2


def judged(
    op: Any, *args: Any, probe: Probe | None = None, output: Any = None
) -> dict[str, tuple[Comparison, Verdict]]:
    probe = probe or Probe(arithmetic=NUMPY)
    check: Check = BY_OP[op._schema.name]
    call, captured = perform(check, op, args, {}, probe)
    if output is not None:
        call = OpCall(overload=op, arguments=call.arguments, output=output)
    return {comparison.output: (comparison, verdict) for comparison, verdict in examine(check, call, captured, probe)}


def operands(
    count: int, classes: int, dtype: torch.dtype, ignored: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(count, classes, generator=generator).log_softmax(1).to(dtype)
    target = torch.randint(0, classes, (count,), generator=generator)
    if ignored == "some":
        target[torch.rand(count, generator=generator) < 0.3] = -100
    if ignored == "every-16th":
        target[::16] = -100
    if ignored == "all":
        target[:] = -100
    return source, target, (torch.rand(classes, generator=generator) + 0.1).to(dtype)


@pytest.mark.parametrize(("check", "example", "dtype"), [*examples(CHECKS, "silent"), *examples(CHECKS, "fires")])
def test_examples_along_every_route(check: Check, example: Example, dtype: torch.dtype) -> None:
    for route in ROUTES:
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route))
        assert verdicts
        assert any(verdict.wrong for _, verdict in verdicts) is (example.corrupt is not None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nn.functional.nll_loss", "nn.functional.cross_entropy"])
@pytest.mark.parametrize("limit", [inf, 50.0])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.37))
    assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong
    assert not watch.not_covered


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    count=st.integers(0, 700),
    classes=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    ignored=st.sampled_from(("none", "some", "every-16th", "all")),
    reduction=st.sampled_from((NONE, MEAN, SUM)),
    weighted=st.booleans(),
    limit=st.sampled_from((inf, 40.0)),
)
def test_random_calls_are_silent(
    count: int, classes: int, dtype: torch.dtype, ignored: str, reduction: int, weighted: bool, limit: float
) -> None:
    source, target, weight = operands(count, classes, dtype, ignored)
    probe = Probe(arithmetic=NUMPY, limit=limit, offset=0.4)
    arguments = (source, target, weight if weighted else None, reduction, -100)
    loss, total_weight = aten.nll_loss_forward(*arguments)
    forward = judged(aten.nll_loss_forward.default, *arguments, probe=probe)
    backward = judged(
        aten.nll_loss_backward.default, torch.ones_like(loss), *arguments, total_weight.clone(), probe=probe
    )
    for _, verdict in (*forward.values(), *backward.values()):
        assert not verdict.wrong


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", [MEAN, SUM])
def test_shadows_equal_fractions_within_their_bound(reduction: int, weighted: bool) -> None:
    source, target, weight = operands(200, 6, torch.float32, "some")
    results = judged(aten.nll_loss_forward.default, source, target, weight if weighted else None, reduction, -100)
    counted = [(row, label) for row, label in enumerate(target.tolist()) if label != -100]
    factors = [Fraction(weight[label].item()) if weighted else Fraction(1) for _, label in counted]
    loss = -sum(
        factor * Fraction(source[row, label].item()) for factor, (row, label) in zip(factors, counted, strict=True)
    )
    exact = {"output": loss / sum(factors) if reduction == MEAN else loss, "total_weight": sum(factors)}
    for name, value in exact.items():
        comparison, _ = results[name]
        own = float(comparison.shadow_error) + 4 * 2.0**-53 * float(comparison.exact.abs())
        assert abs(Fraction(comparison.exact.item()) - value) <= own


def test_one_dropped_target_of_many_is_found() -> None:
    """The cascade's height, not the number of targets, bounds the error: 1 of 8,192 targets shows."""
    source, target, _ = operands(8192, 5, torch.float32, "none")
    loss, total_weight = aten.nll_loss_forward(source, target, None, MEAN, -100)
    wrong = (loss * total_weight + source[-1, target[-1]]) / total_weight
    results = judged(aten.nll_loss_forward.default, source, target, None, MEAN, -100, output=(wrong, total_weight))
    assert results["output"][1].wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_sums_are_replayed_bit_for_bit(dtype: torch.dtype) -> None:
    assert all(replays(dtype, planar, weighted) for planar in (False, True) for weighted in (False, True))
    for ignored in ("none", "some", "every-16th"):
        source, target, weight = operands(900, 5, dtype, ignored)
        loss, total_weight = aten.nll_loss_forward(source, target, weight, SUM, -100)
        counted = (target != -100).numpy()
        labels = target.clamp(min=0)
        terms = -source.gather(1, labels[:, None])[:, 0] * weight[labels]
        replayed = cascade_total(terms, counted)
        assert replayed is not None
        assert replayed == loss
        step = torch.nextafter(loss, torch.tensor(inf, dtype=dtype))
        results = judged(aten.nll_loss_forward.default, source, target, weight, SUM, -100, output=(step, total_weight))
        assert not results["output"][1].wrong  # the bound alone would not see the last bit
        assert results["output (replayed)"][1].wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_loss_that_is_better_than_the_replayed_one_is_right(dtype: torch.dtype) -> None:
    source, target, weight = operands(3000, 7, dtype, "some")
    arguments = (aten.nll_loss_forward.default, source, target, weight, MEAN, -100)
    results = judged(*arguments)
    sums = [results[name][0] for name in ("output", "total_weight")]
    better = tuple(comparison.exact.to(dtype) for comparison in sums)
    assert any(not torch.equal(a, comparison.computed) for a, comparison in zip(better, sums, strict=True))
    results = judged(*arguments, output=better)
    assert "output (replayed)" in results
    assert not any(verdict.wrong for _, verdict in results.values())


def test_padding_on_the_cascade_s_steps_makes_it_sequential() -> None:
    """The kernel moves partial sums up only at every 16th target, and only if that target counts."""
    everything = np.ones(4096, dtype=bool)
    padded = everything.copy()
    padded[::16] = False
    assert cascade_height(everything) < 80
    assert cascade_height(padded) >= int(padded.sum())
    assert cascade_height(np.zeros(40, dtype=bool)) <= 8


def test_no_targets() -> None:
    source, target = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    for reduction, exact in ((MEAN, torch.nan), (SUM, 0.0), (NONE, None)):
        results = judged(aten.nll_loss_forward.default, source, target, None, reduction, -100)
        assert not any(verdict.wrong for _, verdict in results.values())
        if exact is not None:
            wrong = (torch.tensor(3.0), torch.tensor(0.0))
            results = judged(aten.nll_loss_forward.default, source, target, None, reduction, -100, output=wrong)
            assert results["output"][1].wrong


def test_a_target_in_one_byte_is_judged() -> None:
    source, target, _ = operands(50, 5, torch.float32, "none")
    results = judged(aten.nll_loss_forward.default, source, target.to(torch.uint8), None, MEAN, -100)
    assert not results["output"][1].wrong


def test_unweighted_losses_are_copies() -> None:
    source, target, _ = operands(50, 5, torch.float32, "some")
    loss, total_weight = aten.nll_loss_forward(source, target, None, NONE, -100)
    loss[7] = torch.nextafter(loss[7], torch.tensor(inf))
    results = judged(aten.nll_loss_forward.default, source, target, None, NONE, -100, output=(loss, total_weight))
    assert results["output"][1].wrong


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_shadows_neither_synchronise_nor_draw(check: Check) -> None:
    state = torch.get_rng_state()
    for example in check.silent:
        overload, args, kwargs = example.call(torch.bfloat16, torch.Generator().manual_seed(0))
        call, captured = perform(check, overload, args, kwargs, Probe(arithmetic=PAIRWISE))
        with Unsynchronised():
            assert check.judge(call, captured, Probe(arithmetic=PAIRWISE, limit=500.0))
    assert torch.equal(state, torch.get_rng_state())
