"""Lost updates: mass that rounding took from parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from numguard.checks import fused_optimizers, pointwise_updates
from numguard.checks.check import Probe
from numguard.checks.examination import perform
from numguard.checks.update_loss import UpdateLedger, element_masses, update_masses_by_tensor
from numguard.shadow.routes import NUMPY

PROBE = Probe(arithmetic=NUMPY)
ADAM = fused_optimizers.CHECKS[0]


def test_mass_of_elements_that_stayed_is_lost() -> None:
    before = torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.bfloat16)
    intended = torch.tensor([1.001, 1.25, 0.999, 2.0], dtype=torch.float64)
    lost, total = element_masses(before, intended, intended.to(torch.bfloat16))
    assert lost.dtype == total.dtype == torch.float64
    assert lost.tolist() == pytest.approx([0.001, 0.0, 0.001, 0.0])
    assert total.tolist() == pytest.approx([0.001, 0.25, 0.001, 0.0])


def test_nonfinite_updates_count_nowhere() -> None:
    before = torch.zeros(2)
    lost, total = element_masses(before, torch.tensor([torch.nan, torch.inf], dtype=torch.float64), before)
    assert lost.tolist() == total.tolist() == [0.0, 0.0]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=20), st.floats(1e-9, 1.0))
def test_lost_mass_never_exceeds_intended_mass(values: list[float], size: float) -> None:
    before = torch.tensor(values, dtype=torch.bfloat16)
    intended = before.double() + size
    lost, total = element_masses(before, intended, intended.to(torch.bfloat16))
    assert bool(((lost >= 0.0) & (lost <= total)).all())


def step(dtype: torch.dtype, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
    ones = [[torch.ones(64, dtype=dtype), torch.ones(3, 5, dtype=dtype)] for _ in range(4)]
    args = (*ones, [], [torch.tensor(1.0), torch.tensor(1.0)])
    hyper = {"lr": lr, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8}
    call, captured = perform(
        ADAM, torch.ops.aten._fused_adamw_.default, args, {**hyper, "amsgrad": False, "maximize": False}, PROBE
    )
    comparisons = ADAM.judge(call, captured, PROBE)
    records = update_masses_by_tensor(call, captured, comparisons)
    assert records is not None
    assert [record.numbers for record in records] == [(0, 1)]
    assert float(records[0].intended[0] / records[0].intended[1]) == pytest.approx(64 / 15)
    return records[0].lost.sum(), records[0].intended.sum()


def test_bfloat16_loses_small_steps_and_float32_does_not() -> None:
    lost, intended = step(torch.bfloat16, 1e-5)
    assert float(lost) == float(intended) > 0.0
    lost, intended = step(torch.float32, 1e-5)
    assert float(lost) == 0.0 < float(intended)


def test_plain_updates_count_only_where_the_tensor_is_known_to_be_a_parameter() -> None:
    check = pointwise_updates.CHECKS[0]
    param = torch.ones(16, dtype=torch.bfloat16)
    args = (param, torch.full((16,), 1e-4, dtype=torch.bfloat16))
    call, captured = perform(check, torch.ops.aten.add_.Tensor, args, {}, PROBE)
    comparisons = check.judge(call, captured, PROBE)
    assert update_masses_by_tensor(call, captured, comparisons) is None
    assert update_masses_by_tensor(call, captured, comparisons, lambda tensor: tensor is not param) is None
    records = update_masses_by_tensor(call, captured, comparisons, lambda tensor: tensor is param)
    assert records is not None
    assert [(record.lost.tolist(), record.numbers) for record in records] == [(records[0].intended.tolist(), (0,))]
    assert float(records[0].lost) > 0.0


def test_ledger_counts_its_window_only() -> None:
    empty = UpdateLedger(first_step=10, last_step=20)
    one = torch.tensor(1.0, dtype=torch.float64)
    ledger = empty.with_masses(9, "head", one, one).with_masses(21, "head", one, one)
    assert ledger == empty
    assert ledger.share("head") == 0.0
    ledger = ledger.with_masses(10, "head", 0.2 * one, one).with_masses(20, "head", 0.6 * one, one)
    ledger = ledger.with_masses(15, "body", 0.9 * one, one)
    assert ledger.share("head") == pytest.approx(0.4)
    assert list(ledger.shares()) == ["body", "head"]
    assert not ledger.is_complete(20)
    assert ledger.is_complete(21)
    assert empty.shares() == {}
