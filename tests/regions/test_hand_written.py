"""Unstable regions are found at the first step whose data make them wrong, and not before; their twins never are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import numguard
from numguard.finding import Finding
from numguard.regions import REFERENCE_FORMS
from numguard.testing import faulty_kernel
from tests.regions.hand_written import REGIONS, Function, Holder, Written, error_in_one_ulp_changes, one_ulp

NUM_STEPS = 12
EIGHT = 8.0
CASES = [(name, dtype) for name, region in REGIONS.items() for dtype in region.dtypes]


def findings_of(
    model: nn.Module, data: Callable[[int], tuple[Tensor, ...]], num_steps: int = NUM_STEPS, **options: Any
) -> tuple[list[Finding], numguard.Guard]:
    """Run a model on one batch a step under an exhaustive guard; return its findings about regions."""
    with numguard.guard(model, budget=None, **options) as g:
        for step in range(num_steps):
            model(*data(step))
            g.step(0.0)
    assert [f.message for f in g.findings if f.kind == "degraded"] == []
    return [f for f in g.findings if f.kind == "unstable_region"], g


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_found_at_the_first_step_whose_data_make_it_wrong(name: str, dtype: torch.dtype) -> None:
    region = REGIONS[name]
    batches = [region.data(step / (NUM_STEPS - 1), dtype) for step in range(NUM_STEPS)]
    errors = [error_in_one_ulp_changes(region, region.wrong(*batch), batch) for batch in batches]
    first = next(step for step, error in enumerate(errors) if error > EIGHT)
    assert first > 0
    findings, _ = findings_of(Holder(Written(region.wrong)), lambda step: batches[step])
    assert [finding.first_caught_step for finding in findings] == [first]
    assert findings[0].last_clean_step == first - 1
    assert findings[0].module == "region"
    assert findings[0].severity == "warning"
    assert findings[0].location is not None
    assert findings[0].location.startswith("tests/regions/hand_written.py:")
    if errors[first] < float("inf"):
        assert findings[0].ratio == pytest.approx(errors[first], rel=0.05)
    silent, _ = findings_of(Holder(Written(region.wrong)), lambda step: batches[step], first)
    assert silent == []


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_well_written_twin_is_silent(name: str, dtype: torch.dtype) -> None:
    region = REGIONS[name]
    findings, guard = findings_of(Holder(Written(region.well)), lambda step: region.data(step / (NUM_STEPS - 1), dtype))
    assert findings == []
    assert next(site.checked for site in guard.coverage.sites if site.op == "region (own)") == NUM_STEPS


def merge(*, crossed: bool) -> Function:
    """Return Chan's merge of two parts of a variance; wrong where the squared distance of the means is left out."""

    def merged(n_a: Tensor, mean_a: Tensor, m_a: Tensor, n_b: Tensor, mean_b: Tensor, m_b: Tensor) -> Any:
        n, delta = n_a + n_b, mean_b - mean_a
        between = delta * delta * n_a * n_b / n if crossed else delta * delta * n_b / n
        return n, mean_a + delta * n_b / n, m_a + m_b + between

    return merged


def parts(step: int) -> tuple[Tensor, ...]:
    """Two parts whose means are equal at first and then drift apart."""
    generator = torch.Generator().manual_seed(step)
    a, b = torch.randn(2, 5, 40, generator=generator)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    b = b + (0.25 * max(0, step - 3))
    count = torch.full((5,), 40.0)
    return tuple(t for x in (a, b) for t in (count, x.mean(-1), ((x - x.mean(-1, keepdim=True)) ** 2).sum(-1)))


def test_a_wrong_welford_merge_is_found_by_its_reference_form() -> None:
    """Its operators in float64 are as wrong: only a form of what is meant can tell."""
    first = next(step for step in range(NUM_STEPS) if _merge_error(step) > EIGHT)
    assert first == 4
    form = {"region": "welford_merge"}
    findings, _ = findings_of(Holder(Written(merge(crossed=False))), parts, regions=form)
    assert [finding.first_caught_step for finding in findings] == [first]
    assert "reference form" in findings[0].message
    silent, guard = findings_of(Holder(Written(merge(crossed=True))), parts, regions=form)
    assert silent == []
    assert [site.checked for site in guard.coverage.sites if site.op == "region (form)"] == [NUM_STEPS]


def _merge_error(step: int) -> float:
    given = tuple(x.double() for x in parts(step))
    exact = merge(crossed=True)(*given)[2]
    n, delta = given[0] + given[3], given[4] - given[1]
    slope = 2.0 * delta.abs() * given[0] * given[3] / n
    change = one_ulp(parts(step)[2]) + one_ulp(parts(step)[5]) + 0.5 * one_ulp(exact.float())
    change = change + slope * (one_ulp(parts(step)[1]) + one_ulp(parts(step)[4]))
    return float(((merge(crossed=False)(*parts(step))[2].double() - exact).abs() / change).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_users_own_form_gets_the_state_in_float64(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def form(state: Any, x: Tensor) -> Tensor:
        seen.append(state["weight"].dtype)
        return REFERENCE_FORMS["layer_norm"](state, x)  # type: ignore[return-value]

    model = Holder(nn.LayerNorm(16).to(dtype))
    findings, _ = findings_of(model, lambda step: (torch.randn(4, 16, dtype=dtype),), 2, regions={"regi.n": form})
    assert findings == []
    assert set(seen) == {torch.float64}


FORMS: dict[str, tuple[Any, ...]] = {
    "cross_entropy": (torch.tensor([1, 2, 0]),),
    "layer_norm": (),
    "log_softmax": (),
    "logsumexp": (),
    "rms_norm": (),
    "softmax": (),
    "variance": (),
    "vector_norm": (),
}


@pytest.mark.parametrize("name", FORMS)
def test_reference_forms_do_not_add_with_torchs_sums(name: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right = REFERENCE_FORMS[name]({}, x, *FORMS[name])
    with (
        faulty_kernel("aten::sum.dim_IntList", lambda call: call.results[0].zero_()) as sums,
        faulty_kernel("aten::mean.dim", lambda call: call.results[0].zero_()) as means,
    ):
        assert torch.equal(REFERENCE_FORMS[name]({}, x, *FORMS[name]), right)  # type: ignore[arg-type]
    assert sums.num_calls + means.num_calls == 0


def test_reference_forms_return_what_torch_returns() -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, targets = x[0] + 2.0, torch.tensor([1, -100, 0])
    expected = {
        "layer_norm": ({"weight": weight}, (x,), torch.nn.functional.layer_norm(x, (7,), weight)),
        "rms_norm": ({"weight": weight, "eps": 1e-6}, (x,), torch.nn.functional.rms_norm(x, (7,), weight, 1e-6)),
        "variance": ({"correction": 1}, (x,), x.var(-1)),
        "softmax": ({"dim": 0}, (x,), x.softmax(0)),
        "log_softmax": ({}, (x,), x.log_softmax(-1)),
        "logsumexp": ({"dim": 0}, (x,), x.logsumexp(0)),
        "cross_entropy": ({}, (x, targets), torch.nn.functional.cross_entropy(x, targets)),
        "vector_norm": ({}, (x,), torch.linalg.vector_norm(x, dim=-1)),
        "cosine_similarity": ({}, (x, x.flip(0)), torch.cosine_similarity(x, x.flip(0), dim=-1)),
    }
    for name, (state, arguments, right) in expected.items():
        # Sums of at most 7 terms of order 1, twice: 16 roundings, with the conditioning of a difference of a few ulps.
        torch.testing.assert_close(REFERENCE_FORMS[name](state, *arguments), right, rtol=2.0**-47, atol=2.0**-47)
