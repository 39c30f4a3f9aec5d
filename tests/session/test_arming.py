"""Which steps are armed does not depend on how the loop numbers them, nor on where an attempt began."""

import time
from typing import Any

import pytest
import torch
from torch import nn

import numguard


def train(guard: Any, model: nn.Module, steps: int, number: Any = lambda step: None) -> list[int]:
    """Train in steps of a few milliseconds and return the armed ones."""
    armed = []
    with guard:
        for step in range(steps):
            if guard._run.arming.mode is not None:
                armed.append(step)
            loss = model(torch.ones(2, 4)).sum()
            loss.backward()
            time.sleep(0.002)
            guard.step(loss, step=number(step))
    return armed


@pytest.mark.parametrize("number", [lambda step: None, lambda step: 10 * step + 3, lambda step: 5000 + step])
def test_a_loop_may_number_its_steps_as_it_likes(number: Any) -> None:
    model = nn.Linear(4, 4)
    armed = train(numguard.guard(model, budget=0.5), model, 60, number)
    assert len(armed) >= 2
    assert min(armed) <= 11 + 40


def test_a_later_attempt_is_armed_as_soon_as_the_first() -> None:
    model = nn.Linear(4, 4)
    guard = numguard.guard(model, budget=0.5)
    guard.load_state_dict({"schema": 1, "step": 123_456})
    assert train(guard, model, 60)
    assert guard.state_dict()["step"] == 123_516


def test_an_accelerators_verdicts_and_the_schedule_share_the_users_numbers() -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=None) as guard:
        guard.step(model(torch.full((1, 4), torch.nan)).sum(), step=77)
    assert guard.findings[0].kind == "nonfinite"
    assert guard.findings[0].first_caught_step in (0, 77)


def test_a_budget_that_pays_for_nothing_is_said() -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=1e-6) as guard:
        for _ in range(450):
            guard.step(model(torch.ones(1, 4)).sum())
    assert guard.coverage.num_armed_steps == 0
    assert guard.coverage.num_checks == 0
    assert any("budget" in reason for reason in guard.coverage.uncovered)


def test_a_burst_takes_part_in_the_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(4, 4)
    guard = numguard.guard(model, budget=0.5)
    rounds: list[int] = []
    with guard:
        agree = guard._run.arming._agree
        monkeypatch.setattr(guard._run.arming, "_agree", lambda step: rounds.append(step) or agree(step))
        guard.arm(30)
        for _ in range(20):
            guard.step(model(torch.ones(1, 4)).sum())
    # The other ranks may have no burst: they would wait for this one's wish at step 8 and 10.
    assert {8, 10} <= set(rounds)


def test_what_armed_steps_cost_beyond_the_clock_is_charged_to_later_ones() -> None:
    model = torch.nn.Linear(4, 4)
    with numguard.guard(model, torch.optim.SGD(model.parameters(), lr=0.1), budget=0.01) as guard:
        arming = guard._run.arming
        for _ in range(60):
            arming.end_step(0.1, 0.0005, armed=False)
        arming._part = "model"
        assert arming.hidden_seconds("model") == 0.0
        for elapsed in (0.118, 0.5, 0.119, 0.12, 0.09):  # own time is 10 ms of each, the middle one takes 9 more
            arming.end_step(elapsed, 0.01, armed=True)
        assert arming.hidden_seconds("model") == pytest.approx(0.119 - 0.01 - 0.0995, abs=1e-9)
        assert arming.hidden_seconds("update") == 0.0
