"""Faults under the kernels are found, named and sized; a sample of the campaign, and proof that it can fail."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from benchmarks.campaigns import injection_runs
from benchmarks.campaigns.extended_values import UNIT_ROUNDOFF, VALUES, wide
from benchmarks.campaigns.injection_document import document
from benchmarks.campaigns.injection_patterns import PATTERNS
from benchmarks.campaigns.injection_plan import cases, run, sample
from benchmarks.campaigns.injection_runs import Case, Outcome, Size, run_case
from benchmarks.campaigns.injection_sites import FLOATS, SITES
from benchmarks.campaigns.injection_thresholds import Thresholds, thresholds_of
from numguard.shadow.call import bind
from numguard.testing import KernelCall

pytestmark = pytest.mark.skipif(UNIT_ROUNDOFF > 2.0**-63, reason="numpy.longdouble is no wider than float64 here")


@pytest.fixture(autouse=True)
def _one_quiet_thread() -> Iterator[None]:
    before, logger = torch.get_num_threads(), logging.getLogger("numguard")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.CRITICAL)
    yield
    torch.set_num_threads(before)
    logger.setLevel(level)


def _case(op: str, pattern: str, target: float, **changes: object) -> Case:
    site = next(site for site in SITES if site.op == op)
    case = Case(site=site, dtype=torch.float32, pattern=pattern, target=target, transient=False, armed=False, seed=5)
    return replace(case, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", sample(84), ids=lambda case: case.name)
def test_faults_are_found_and_rounding_is_not(case: Case) -> None:
    outcome = run(case)
    assert outcome.verdict in ("found", "silent", "between"), f"{outcome.ratio:.4g} B. {outcome.detail}"
    assert outcome.right <= 1.0


def test_the_campaign_is_as_large_and_as_close_as_promised() -> None:
    every = cases()
    assert len(every) >= 400
    assert {case.dtype for case in every} == set(FLOATS)
    assert {case.pattern for case in every} == set(PATTERNS)
    assert {case.site.phase for case in every} == {"forward", "backward", "optimizer"}
    assert {case.transient for case in every} == {case.armed for case in every} == {False, True}
    assert len({case.seed for case in every}) == len(every)
    chosen = sample(84)
    assert {case.dtype for case in chosen} == set(FLOATS)
    assert {case.pattern for case in chosen} == set(PATTERNS)


@pytest.mark.parametrize(("transient", "kind"), [(False, "wrong_result"), (True, "corruption")])
def test_a_fault_that_does_not_come_back_is_another_kind(
    transient: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case("aten::sum.dim_IntList", "dropped element", 10.0, transient=transient)
    assert run_case(case).verdict == "found"
    monkeypatch.setattr(injection_runs, "_expected_kind", lambda case: "another")
    outcome = run_case(case)
    assert outcome.verdict == "misnamed"
    assert outcome.detail.startswith(f"{kind} of aten::sum.dim_IntList in 'block.site', forward, caught 1, clean 0")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_site_that_is_always_inaccurate_has_a_last_clean_step(dtype: torch.dtype) -> None:
    """This build adds embedding gradients in 16 bits, which is a warning at every step and an error at none."""
    outcome = run_case(_case("aten::embedding_dense_backward", "flipped bit", 10.0, dtype=dtype))
    assert outcome.verdict == "found", outcome.detail


@pytest.mark.parametrize("op", ["aten::native_layer_norm_backward", "aten::embedding_dense_backward"])
def test_a_last_bit_within_the_bound_is_no_error_where_sums_are_repeated(op: str) -> None:
    outcome = run_case(_case(op, "flipped bit", 0.5, dtype=torch.bfloat16))
    assert outcome.verdict == "silent", outcome.detail


def test_the_same_case_goes_wrong_in_the_same_way() -> None:
    case = _case("aten::native_layer_norm_backward", "flipped bit", 10.0)
    first, second = run_case(case), run_case(case)
    assert first == second
    assert first.verdict == "found"


def test_a_guard_that_does_not_look_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD", "off")
    outcome = run_case(_case("aten::mm", "flipped bit", 10.0))
    assert outcome.verdict == "missed"
    assert 2.0 < outcome.ratio < 100.0


def test_an_alarm_below_the_bound_is_called_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thresholds taken to be eight times what they are, a fault of four times B looks like rounding."""

    def widened(call: KernelCall) -> Thresholds:
        bounds = thresholds_of(call)
        return replace(bounds, alarm=[8.0 * bound for bound in bounds.alarm])

    monkeypatch.setattr(injection_runs, "thresholds_of", widened)
    outcome = run_case(_case("aten::mm", "flipped bit", 0.5))
    assert outcome.verdict == "false alarm"
    assert outcome.detail.startswith("wrong_result of aten::mm")


def test_thresholds_are_those_of_the_elements_they_stand_at() -> None:
    """A matrix product with rows of very different size has bounds of very different size, in the same places."""
    scales = torch.tensor([1.0, 1e-3, 1e3, 1e-6]).reshape(-1, 1)
    left, right = torch.ones(4, 8) * scales, torch.ones(8, 3)
    overload, product = torch.ops.aten.mm.default, left @ right
    arguments = bind(overload, (left, right), {})
    call = KernelCall(
        overload=overload,
        before=arguments,
        arguments=arguments,
        output=product,
        results=(product,),
        rerun=lambda changes: (product,),
    )
    clean = product.clone()
    (bounds,) = thresholds_of(call).alarm
    assert torch.equal(product, clean), "the result is put back"
    relative = torch.from_numpy(bounds).reshape(4, 3) / scales
    assert torch.allclose(relative, relative[0, 0].expand(4, 3), rtol=1e-6)
    # Eight products that make 8: at least half a unit in the last place, at most two roundings for each product.
    assert 8 * 2.0**-25 <= float(relative[0, 0]) <= 2 * 8 * 8 * 2.0**-24


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_exact_values_are_those_of_fractions(dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    terms = [[Fraction(value) for value in row] for row in x.double().tolist()]
    (sums,) = VALUES["aten::sum.dim_IntList"](bind(torch.ops.aten.sum.dim_IntList, (x, [1]), {}))
    (norms,) = VALUES["aten::linalg_vector_norm"](bind(torch.ops.aten.linalg_vector_norm.default, (x, 2, [1]), {}))
    for row, total, norm in zip(terms, sums, norms, strict=True):  # type: ignore[arg-type]
        mass = sum(abs(value) for value in row)
        assert abs(_fraction(total) - sum(row)) <= 40 * Fraction(UNIT_ROUNDOFF) * mass
        square = sum(value * value for value in row)
        # 40 additions, a product and a root, squared: twice the relative error of the norm, and a little.
        assert abs(_fraction(norm) ** 2 - square) <= 90 * Fraction(UNIT_ROUNDOFF) * square


def _fraction(value: np.longdouble) -> Fraction:
    high = float(value)
    return Fraction(high) + Fraction(float(value - np.longdouble(high)))


def test_tensors_are_widened_without_loss() -> None:
    x = torch.tensor([1.0, 2.0**-149, -3.0])
    assert [float(value) for value in wide(x)] == x.double().tolist()


def test_the_document_counts_every_case() -> None:
    found = Outcome(
        case=_case("aten::mm", "flipped bit", 3.0),
        verdict="found",
        size=Size(ratio=3.5, relative_bound=1e-6, decided=True),
        right=0.25,
    )
    silent = replace(
        found,
        verdict="silent",
        size=Size(ratio=0.5, relative_bound=1e-6, decided=True),
        case=_case("aten::mm", "NaN", 1.0),
    )
    text = document([found, found, silent], command="command", date="today", seconds=1.0)
    assert "3 cases: **2 found, 0 missed, 0 misnamed** above 2 B; **1 silent, 0 false alarms** at or below B" in text
    assert "2 of 3 (67%) have a size in [2, 100] B" in text
    row = next(line for line in text.splitlines() if line.startswith("| `mm, forward` | float32 |"))
    assert "| 2f |" in row
    assert "| 1s |" in row
