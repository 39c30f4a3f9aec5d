"""A kernel beside its author's reference: which calls, what is said, and that nothing else changes."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import numguard
from numguard.numerics import unit_roundoff
from tests.session.small_net import digest

ROOT = Path(__file__).parents[2]


def _exact(x: Tensor) -> Tensor:
    return x.double().square()


def _bound(x: Tensor) -> Tensor:
    """Return what one correctly rounded multiplication may be off by (Higham, ASNA 2nd ed., section 2.2)."""
    return unit_roundoff(x.dtype) * _exact(x)


def _square(x: Tensor) -> Tensor:
    return x * x


def _kernel(fault: float = 0.0, **options: Any) -> Callable[[Tensor], Tensor]:
    options = {"reference": _exact, "error_bound": _bound, "share": 1.0} | options

    @numguard.shadowed(**options)
    def square(x: Tensor) -> Tensor:
        return x * x + fault

    return square


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_right_kernel_is_silent_and_its_bits_are_its_own(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    def bits(kernel: Callable[[Tensor], Tensor]) -> tuple[str, str]:
        x = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype).requires_grad_()
        result = kernel(x)
        result.sum().backward()
        return digest([result]), digest([x.grad])

    # The reference of float64 numbers rounds as well: it is allowed its own half unit.
    bound = (lambda x: 2.0 * _bound(x)) if dtype == torch.float64 else _bound
    assert bits(_kernel(error_bound=bound)) == bits(_square)
    assert _warnings(caplog) == []


def test_a_wrong_kernel_is_a_warning_with_the_authors_bound(caplog: pytest.LogCaptureFixture) -> None:
    kernel = _kernel(1.0)
    for _ in range(3):
        assert kernel(torch.tensor([3.0, 4.0])).tolist() == [10.0, 17.0]
    (message,) = _warnings(caplog)
    assert "square returned 10 where the reference has 9" in message
    assert "that its author allows; 2 of 2 elements" in message


@pytest.mark.parametrize("budget", [0.01, None])
def test_a_guard_gets_the_finding(budget: float | None) -> None:
    kernels = [_kernel(), _kernel(1.0)]
    with numguard.guard(budget=budget) as guard:
        for step in range(6):
            kernels[step == 4](torch.tensor([3.0, 4.0]))
            guard.step(1.0)
    (finding,) = guard.findings
    assert (finding.kind, finding.severity, finding.model, finding.proof, finding.confirmed) == (
        "wrong_result",
        "warning",
        "assumed",
        "none",
        "no",
    )
    assert (finding.op, finding.first_caught_step) == ("_kernel.square", 4)
    assert finding.location is not None
    assert "test_custom_kernels.py" in finding.location
    assert finding.ratio == 1.0 / (9.0 * 2.0**-24)
    assert "error_bound" in finding.advice
    assert "checkpoint" not in finding.advice


def test_the_last_clean_step_of_a_kernel_is_known_in_each_run() -> None:
    fault = [0.0]
    kernel = numguard.shadowed(reference=_exact, error_bound=0.0, share=1.0)(lambda x: x * x + fault[0])
    for expected in (1, None):
        with numguard.guard() as guard:
            for step in range(4):
                fault[0] = float(step >= 2 or expected is None)
                kernel(torch.ones(2))
                guard.step(1.0)
        (finding,) = guard.findings
        assert finding.last_clean_step == expected
        assert (finding.count, finding.checked) == ((2, 4) if expected else (4, 4))


@pytest.mark.parametrize(
    ("computed", "exact", "wrong"),
    [
        (math.nan, math.nan, False),
        (math.inf, math.inf, False),
        (math.nan, 1.0, True),
        (math.inf, -math.inf, True),
        (math.inf, 1.0, True),
        (1.0, math.nan, True),
        (1.0, math.inf, True),
        (1.5, 1.0, False),
        (1.5000001192092896, 1.0, True),
    ],
)
def test_the_bound_is_taken_as_it_is_given(
    computed: float, exact: float, wrong: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = numguard.shadowed(reference=lambda x: torch.full_like(x, exact), error_bound=0.5)(
        lambda x: torch.full_like(x, computed)
    )
    kernel(torch.zeros(3))
    assert len(_warnings(caplog)) == wrong


def test_a_bound_of_zero_means_equal(caplog: pytest.LogCaptureFixture) -> None:
    right = numguard.shadowed(reference=lambda x: -x, error_bound=0.0)(torch.neg)
    right(torch.randn(5))
    assert _warnings(caplog) == []
    numguard.shadowed(reference=lambda x: -x, error_bound=0)(torch.abs)(torch.ones(5))
    assert len(_warnings(caplog)) == 1


def test_each_of_several_results_has_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1.0, x + 1.0

    numguard.shadowed(reference=lambda x: (x, x), error_bound=lambda x: (1.0, 0.5))(both)(torch.zeros(3))
    (message,) = _warnings(caplog)
    assert "both (output[1]) returned 1 where the reference has 0" in message


def test_the_seed_picks_the_calls() -> None:
    def compared(seed: int, share: float) -> list[int]:
        calls: list[int] = []
        number = [0]

        def reference(x: Tensor) -> Tensor:
            calls.append(number[0])
            return x

        kernel = numguard.shadowed(reference=reference, error_bound=0.0, share=share, seed=seed)(lambda x: x)
        for number[0] in range(400):
            kernel(torch.ones(1))
        return calls

    assert compared(1, 0.0) == [0, 1, 2]
    assert compared(1, 1.0) == [*range(400)]
    assert compared(1, 0.1) == compared(1, 0.1) != compared(2, 0.1)
    # Binomial: 397 calls with a share of 0.1 have a mean of 39.7 and a deviation of 6; five of these either way.
    assert 3 + 10 <= len(compared(1, 0.1)) <= 3 + 70


def test_the_reference_sees_the_arguments_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    def double_(x: Tensor, *, rest: list[Tensor]) -> Tensor:
        rest[0].zero_()
        return x.mul_(2.0)

    def reference(x: Tensor, *, rest: list[Tensor]) -> Tensor:
        assert rest[0].tolist() == [5.0]
        assert not torch.is_grad_enabled()
        return x.add_(x)

    x = torch.tensor([1.0, 3.0])
    kernel = numguard.shadowed(reference=reference, error_bound=0.0)(double_)
    assert kernel(x, rest=[torch.tensor([5.0])]) is x
    assert x.tolist() == [2.0, 6.0]
    assert _warnings(caplog) == []


def test_the_reference_moves_no_generator() -> None:
    state = torch.get_rng_state()
    numguard.shadowed(reference=lambda x: x + torch.rand(1), error_bound=2.0)(lambda x: x)(torch.ones(1))
    assert torch.get_rng_state().tolist() == state.tolist()


@pytest.mark.parametrize(
    ("reference", "bound", "result", "said"),
    [
        (lambda x: 1 / 0, 0.0, lambda x: x, "ZeroDivisionError: division by zero"),
        (lambda x: x[:1], 0.0, lambda x: x, r"shapes of kernel and reference differ: \[(3,)\] and \[(1,)\]"),
        (lambda x: x, lambda x: (0.0, 0.0), lambda x: x, "error_bound gave 2 bounds for 1 results"),
        (lambda x: x, 0.0, lambda x: None, "did not return tensors of floating-point numbers"),
        (lambda x: x, lambda x: torch.ones(2), lambda x: x, "RuntimeError"),
    ],
)
@pytest.mark.parametrize("guarded", [False, True])
def test_what_cannot_be_compared_is_said_once(
    reference: Any, bound: Any, result: Any, said: str, guarded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = numguard.shadowed(reference=reference, error_bound=bound)(result)
    x = torch.ones(3)
    said = said.replace("\\", "")
    if not guarded:
        for _ in range(3):
            assert kernel(x) is result(x)
        (message,) = _warnings(caplog)
        assert said in message
        return
    with numguard.guard() as guard:
        for _ in range(3):
            assert kernel(x) is result(x)
            guard.step(1.0)
    (finding,) = guard.findings
    assert (finding.kind, finding.evidence["stage"], finding.count) == ("degraded", "reference", 3)
    assert said in finding.message


def test_exceptions_of_the_kernel_pass_through() -> None:
    kernel = numguard.shadowed(reference=_exact, error_bound=0.0)(lambda x: x[7])
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        kernel(torch.ones(3))


def test_a_guard_does_not_see_the_reference() -> None:
    with numguard.guard(budget=None) as guard:
        kernel = numguard.shadowed(reference=lambda x: x.double().sum(0), error_bound=0.0)(lambda x: x[0])
        kernel(torch.ones(1, 3))
        guard.step(1.0)
    assert guard.coverage.num_calls_seen == 0
    assert [finding.message for finding in guard.findings] == []


def test_a_guard_that_looks_away_and_numguard_switched_off_compare_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with numguard.guard() as guard:
        with guard.pause():
            _kernel(1.0)(torch.ones(2))
        monkeypatch.setenv("NUMGUARD", "off")
        _kernel(1.0)(torch.ones(2))
    assert guard.findings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": 3}, "reference=3 cannot be called"),
        ({"error_bound": -1.0}, "error_bound=-1.0 is no bound"),
        ({"error_bound": math.nan}, "error_bound=nan is no bound"),
        ({"share": 1.5}, "share=1.5 is no share"),
        ({"share": True}, "share=True is no share"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(numguard.UsageError, match=message):
        numguard.shadowed(**({"reference": _exact, "error_bound": 0.0} | options))


def test_it_is_put_on_a_function() -> None:
    with pytest.raises(numguard.UsageError, match="put it on a function"):
        numguard.shadowed(reference=_exact, error_bound=0.0)(None)  # type: ignore[arg-type]
    assert _kernel().__name__ == "square"


def test_the_readme_shows_what_runs(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Check one call\n")[2].partition("\n## ")[0]
    program = section.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    x = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(names["square"](x), x * x)
    assert names["verdict"].ok
    assert capsys.readouterr().out.startswith("True ")
    assert names["total"].shape == ()
    assert _warnings(caplog) == []
    assert len(section.splitlines()) <= 20
