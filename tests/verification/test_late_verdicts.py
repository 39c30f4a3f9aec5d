"""Checks on demand on the double of an accelerator: verdicts arrive steps later, and are found then."""

from typing import Any

import torch
from torch import nn

import numguard
from numguard import functional
from numguard.session.guarded_loop import Guard
from numguard.session.options import GuardOptions
from numguard.testing import faulty_kernel
from tests.session.late_courier import Courier

DELAY = 3  # steps


def _run(call: Any, wrong: int) -> tuple[Guard, list[int]]:
    model, courier, known = nn.Linear(2, 2), Courier(DELAY), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Guard(GuardOptions(budget=0.01), model=model, optimizers=[optimizer], send=courier) as guard:
        for step in range(12):
            call(step == wrong)
            optimizer.step()
            guard.step(torch.ones(()))
            courier.now += 1
            known.append(len([finding for finding in guard.findings if finding.kind == "wrong_result"]))
    return guard, known


def test_a_wrong_sum_is_found_when_its_verdict_arrives() -> None:
    def call(wrong: bool) -> None:
        with faulty_kernel("aten::sum.dim_IntList", lambda c: c.results[0].add_(1.0), when=lambda _: wrong):
            functional.sum(torch.ones(5, 7), 1)

    guard, known = _run(call, wrong=4)
    (finding,) = [finding for finding in guard.findings if finding.kind == "wrong_result"]
    assert (finding.first_caught_step, finding.last_clean_step, finding.confirmed) == (4, 3, "second-shadow")
    assert known.index(1) >= 4 + DELAY


def test_a_wrong_kernel_is_found_when_its_verdict_arrives() -> None:
    fault = [0.0]
    kernel = numguard.shadowed(reference=lambda x: x, error_bound=0.0, share=1.0)(lambda x: x + fault[0])

    def call(wrong: bool) -> None:
        fault[0] = float(wrong)
        kernel(torch.ones(3))

    guard, known = _run(call, wrong=4)
    (finding,) = [finding for finding in guard.findings if finding.kind == "wrong_result"]
    assert (finding.first_caught_step, finding.last_clean_step, finding.severity) == (4, 3, "warning")
    assert known.index(1) >= 4 + DELAY
