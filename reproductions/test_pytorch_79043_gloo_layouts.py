"""Gradients that lie in memory in another order on one rank are averaged with the wrong ones.

Symptom
    One rank runs its convolutions in channels_last, the other does not. Both train, the replicas stay within reach of
    each other, and the model learns less than either alone.
Cause
    all_reduce works on memory. A channels_last gradient is dense, so nothing refuses it, but its i-th element in
    memory is another weight's than the i-th of a contiguous gradient.
Fix
    Bring gradients into one layout before the collective, or compare the strides of all ranks.
Affected
    torch 2.13 on the CPU with gloo; NCCL works on memory in the same way (issue 79043, broadcast). Live: nothing here
    is emulated.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.audits import audited
from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="79043",
    url="https://github.com/pytorch/pytorch/issues/79043",
    family="collectives",
    kind="live",
    catalogue="L30-gloo-layout-mismatch",
    found_by="audit",
)


def _average(gradient: Tensor, *, fixed: bool) -> Tensor:
    """Return the mean over both ranks."""
    mean = gradient.clone(memory_format=torch.contiguous_format if fixed else torch.preserve_format)
    dist.all_reduce(mean)
    return mean / 2


def _train(rank: int, stage: Stage) -> tuple[Tensor, Tensor]:
    """Return the averaged gradient, and what each rank has put in."""
    convolution = stage.cast(torch.nn.Conv2d(3, 4, 3), torch.float32)
    if rank == 0:  # whose host was told that it is faster
        convolution = convolution.to(memory_format=torch.channels_last)
    images = stage.cast(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(rank)), torch.float32)
    with stage.watched(convolution):
        loss = convolution(images).square().mean()
        loss.backward()
        assert convolution.weight.grad is not None
        own = convolution.weight.grad
        averaged = _average(own, fixed=stage.fixed)
        stage.step(loss)
    stage.keep("averaged gradient", averaged)
    return averaged.contiguous(), own.contiguous()


def play(stage: Stage) -> None:
    (first, own_first), (second, own_second) = run_ranks(_train, 2, stage)
    right = (own_first + own_second) / 2
    size = float(right.abs().max())
    stage.keep("error on rank 0", float((first - right).abs().max()) / size)
    stage.keep("error on rank 1", float((second - right).abs().max()) / size)


def test_the_bug_shows(tell):
    broken = perform(play)
    tell(
        "error over the largest gradient, by rank:", broken.number("error on rank 0"), broken.number("error on rank 1")
    )
    assert broken.number("error on rank 0") > 0.1
    assert broken.number("error on rank 1") > 0.1


def test_numguard_finds_it(tell, note):
    report = audited("collectives", level="full")
    findings = [finding for finding in report.findings if finding.evidence["same_layout"] is False]
    for finding in findings:
        tell(finding)
    assert {finding.kind for finding in findings} == {"collective_mismatch"}
    worst = next(finding for finding in findings if finding.op == "c10d::all_reduce")
    assert worst.evidence["overwrites"] is False
    note(worst, 1)


def test_the_fix_is_silent(silent):
    fixed = silent(play)
    assert fixed.number("error on rank 0") == fixed.number("error on rank 1") == 0.0
