"""Arming and disarming costs nothing but time: no error, no leak, and other threads see nothing of it."""

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from numguard.interception.mode import ArmedMode, cost_of_passing, is_innermost

SUM = torch.ops.aten.sum.default


def passed(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


@pytest.mark.parametrize("cycles", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_cycles_with_busy_threads(cycles: int) -> None:
    stop, failures, seen_by = threading.Event(), [], set()

    def observe(func: Any, args: Any, kwargs: Any) -> Any:
        seen_by.add(threading.get_ident())
        return func(*args, **kwargs)

    def train() -> None:
        try:
            model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
            optimizer = torch.optim.AdamW(model.parameters())
            while not stop.is_set():
                model(torch.randn(2, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    x = torch.ones(3)
    try:
        for cycle in range(cycles):
            with ArmedMode({SUM: ()}, observe) as mode:
                if cycle % 100 == 0:
                    x.sum()
                    assert mode.num_observed == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert seen_by == {threading.get_ident()}
    assert _get_current_dispatch_mode() is None


def test_it_hands_on_what_is_checked_and_passes_the_rest() -> None:
    seen: list[Any] = []
    mode = ArmedMode({SUM: ()}, lambda func, args, kwargs: seen.append(func) or passed(func, args, kwargs))
    with mode:
        torch.ones(3).sum() + 1
        mode.active = False
        torch.ones(3).sum()
        mode.active, mode.everything = True, True
        torch.ones(3)
    assert seen == [SUM, torch.ops.aten.ones.default]
    assert mode.num_ops == 6


def test_a_mode_of_the_users_may_lie_above_or_below() -> None:
    class Theirs(TorchDispatchMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Theirs(), ArmedMode({SUM: ()}, passed) as below:
        assert is_innermost(below)
        torch.ones(3).sum()
    with ArmedMode({SUM: ()}, passed) as above, Theirs():
        assert not is_innermost(above)
        torch.ones(3).sum()
    assert Theirs.names.count("aten.sum.default") == 2
    assert (below.num_observed, above.num_observed) == (1, 1)


def test_the_cost_of_passing_is_positive() -> None:
    assert cost_of_passing(20) > 0.0
