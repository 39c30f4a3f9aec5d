"""softmax over the first dimension does not sum to 1 beyond 2^24 rows.

Symptom
    Probabilities over a very long first dimension sum to 1.125 for 1.125 times 2^24 rows, and to 2 for 2^25.
Cause
    The vectorised kernel for a dimension other than the last adds exp(x) in one fp32 accumulator, which stops at 2^24.
Fix
    A cascade, or fp64, for the sum; or the last dimension, whose kernel adds in vector lanes and then the lanes.
Affected
    torch 2.13 on the CPU, fp32. Live: nothing here is emulated. The audit sees it with nothing declared, among its
    sizes past 2^24. In a guard one row of this size costs more than numguard's own check of softmax may, as its
    coverage says; there it is found where the author put the call beside a reference with ``numguard.shadowed``.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.audits import audited
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="softmax over dim 0",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/SoftMaxKernel.cpp",
    family="reduction-accuracy",
    kind="live",
    catalogue="L16-softmax-dim0-saturates",
    found_by="audit",
)
ROWS = 9 << 21


def _over_rows(x: Tensor) -> Tensor:
    return torch.softmax(x, 0)


def _over_columns(x: Tensor) -> Tensor:
    return torch.softmax(x.t().contiguous(), 1).t()


def _in_float64(x: Tensor) -> Tensor:
    return torch.softmax(x.double(), 0)  # counts to 2^53


def _shadowed(kernel: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a softmax over rows whose calls are compared; a millionth of a probability is its author's bound."""
    return numguard.shadowed(reference=_in_float64, error_bound=lambda x: 1e-6 / len(x))(kernel)


def play(stage: Stage) -> None:
    softmax = _over_columns if stage.fixed else _over_rows
    if stage.watcher is not None:
        softmax = _shadowed(softmax)
    x = stage.cast(torch.zeros(ROWS, 2), torch.float32)
    with stage.watched():
        p = softmax(x)
        stage.step()
    stage.keep("total", p[:, 0].double().sum())


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("the probabilities sum to", broken.number("total"))
    assert broken.number("total") == 1.125


def test_numguard_finds_it(tell, note):
    report = audited("exponentials", only=r"x\.softmax\(0\)", level="full", parts=("large",), seconds=60.0)
    hits = [finding for finding in report.findings if finding.message.startswith("result of x.softmax(0)")]
    tell(hits[0].message)
    assert [finding.kind for finding in hits] == ["unstable_region"]
    assert hits[0].ratio > 1e4
    note(hits[0], 1)


def test_a_guard_finds_it_by_the_declared_reference(found):
    finding = found(play, kind="wrong_result", op="_over_rows")
    assert finding.severity == "warning", "the bound is the author's"


def test_the_fix_is_silent(silent):
    assert abs(silent(play).number("total") - 1) < 1e-6
