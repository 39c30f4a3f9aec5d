"""Steps that are put aside: nothing of them is lost, and what hooks cost falls on the step in which they cost it."""

import math

import pytest
import torch

from numguard.session.resting import SECONDS, Resting


def test_steps_come_back_in_order_with_what_each_has_cost() -> None:
    resting, watched = Resting(), []
    resting.begin(7)
    for at in range(3):
        assert resting.current == 7 + at
        if at == 1:
            resting.charge(0.25)
            resting.charge(0.5)
        assert resting.take(torch.tensor(float(at)))
    resting.charge(2.0)  # in the step that goes on

    def watch(step: int, loss: float) -> float:
        watched.append((step, loss))
        return 0.125

    steps, ended, watching = resting.settle(0.0, watch)
    assert [(step.step, step.loss) for step in steps] == watched == [(7, 0.0), (8, 1.0), (9, 2.0)]
    assert [step.own - SECONDS for step in steps] == pytest.approx([0.125, 0.875, 0.125])
    assert watching == 0.375
    assert sum(step.elapsed for step in steps) == pytest.approx(ended)
    assert resting.current == 10
    assert resting.take_charges() == 2.0
    assert resting.take_charges() == 0.0
    assert resting.settle(ended, watch) == ([], ended, 0.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1.0 + 2.0j])
def test_a_loss_that_is_no_finite_number_is_not_put_aside(loss: complex) -> None:
    resting = Resting()
    assert not resting.take(torch.tensor(loss))
    assert not resting.take(torch.ones(2))
    assert resting.current == 0
