"""Ten million clean numbers are not called wrong, a fault in each subject is, and every check takes part."""

import logging
from collections.abc import Iterator

import pytest
import torch

from benchmarks.campaigns.clean_elements import CleanElements, examine, main, plant, run, trial_of
from benchmarks.campaigns.clean_subjects import clean_subjects
from numguard.acceptance.subjects import Subject
from numguard.testing import KernelCall, faulty_kernel

#: Checks whose operators have no kernel on the CPU.
ELSEWHERE = {"fused_rms_norm", "fused_rms_norm_backward"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before, logger = torch.get_num_threads(), logging.getLogger("numguard")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.CRITICAL)  # the planted faults are found, loudly
    yield
    torch.set_num_threads(before)
    logger.setLevel(level)


def test_ten_million_clean_numbers_are_right_and_faults_among_them_are_found() -> None:
    done = run(num_elements=1e7)
    assert done.errors == []
    assert done.missed == []
    assert done.num_elements >= 1e7
    assert done.num_controls > 100
    assert done.worst_ratio <= 1.0


def test_every_check_takes_part() -> None:
    done = CleanElements()
    for turn in range(2):
        for subject in clean_subjects():
            if subject.family in ("further", "losses", "optimizers"):
                examine(done, subject, trial_of(subject, 2 * turn, 0, enlarged=1), turn)
    assert {"nll_loss2d", "nll_loss2d_backward", "soft_margin_loss_backward", "safe_softmax"} <= set(done.by_check)
    assert {"unscale_gradients", "kthvalue", "topk", "fused_adam", "foreach_update"} <= set(done.by_check)
    assert set(done.unreached) >= ELSEWHERE


def _subject(name: str) -> Subject:
    return next(subject for subject in clean_subjects() if subject.name == name)


def test_a_wrong_kernel_is_an_error() -> None:
    def wrong(call: KernelCall) -> None:
        call.results[0].mul_(2.0)

    done, subject = CleanElements(), _subject("x.softmax(1)")
    with faulty_kernel("aten::_softmax", wrong):
        examine(done, subject, trial_of(subject, 0, 0), 0)
    assert len(done.errors) == 1
    assert "wrong_result: aten::_softmax" in done.errors[0]


def test_a_fault_that_nobody_finds_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.campaigns.planted_control.corrupt", lambda call: None)
    done = CleanElements()
    plant(done, _subject("x.cumsum(0)"), "float32", 0)
    assert (done.num_controls, len(done.missed)) == (1, 1)


def test_the_same_round_draws_the_same_trials() -> None:
    subject = _subject("F.conv2d(x, y, padding=1)")
    assert trial_of(subject, 3, 7) == trial_of(subject, 3, 7)
    assert len({trial_of(subject, turn, 7) for turn in range(40)}) > 10


def test_the_command_says_what_it_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--elements", "1", "--seconds", "0"]) == 0
    assert "0 clean element checks of 0 calls" in capsys.readouterr().out
