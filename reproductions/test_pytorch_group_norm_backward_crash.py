"""Training a GroupNorm on top of a frozen channels_last backbone ends the process.

Symptom
    Fine-tuning only the normalisation layers of a frozen convolutional network dies with a segmentation fault in the
    first backward pass. Without channels_last, or with the backbone trained as well, it runs.
Cause
    The channels_last kernel of the backward pass writes the gradient of the input although nobody has asked for it,
    that is, through a null pointer: at the level of the operator every output mask without the input fails, and every
    one with it works.
Fix
    Leave that pass out where the mask says so; until then, a contiguous copy of the activations.
Affected
    torch 2.13 on the CPU, fp32, bf16 and fp16. Live: nothing here is emulated. The training runs in a child process;
    an audit, which runs every call in a child, names the call.
"""

import math
import signal
import subprocess
import sys

import pytest

from reproductions.audits import audited
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="GroupNorm's backward on channels_last",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/group_norm_kernel.cpp",
    family="illegal-memory",
    kind="live",
    catalogue="L09-groupnorm-channels-last-segv",
    found_by="audit",
)
TRAINING = """
import sys
import torch

torch.manual_seed(0)
fixed, dtype = sys.argv[1] == "fixed", getattr(torch, sys.argv[2])
backbone = torch.nn.Conv2d(3, 64, 3, padding=1).to(dtype, memory_format=torch.channels_last).requires_grad_(False)
norm = torch.nn.GroupNorm(8, 64).to(dtype)
optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
for step in range(2):
    images = torch.randn(4, 3, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    hidden = backbone(images)
    loss = (norm(hidden.contiguous() if fixed else hidden) - images.mean()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item(), flush=True)
"""


def play(stage: Stage) -> None:
    how, dtype = "fixed" if stage.fixed else "broken", "float64" if stage.exact else "float32"
    child = subprocess.run([sys.executable, "-c", TRAINING, how, dtype], capture_output=True, text=True, check=False)
    losses = [float(line) for line in child.stdout.split()]
    with stage.watched():
        for step in range(2):
            stage.step(losses[step] if step < len(losses) else math.nan)
    stage.keep("exit status", float(child.returncode))
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("exit status", broken.number("exit status"), "with contiguous activations", fixed.number("exit status"))
    assert broken.number("exit status") == -signal.SIGSEGV
    assert all(math.isnan(loss) for loss in broken.losses)
    assert fixed.number("exit status") == 0.0


def test_numguard_finds_it(tell, note):
    report = audited("normalisation", only="group_norm")
    crashes = [finding for finding in report.findings if finding.kind == "crash"]
    for finding in crashes:
        tell(finding)
    assert len(crashes) == 1
    assert "group_norm" in crashes[0].module
    assert crashes[0].evidence["trial"]["layout"] == "channels_last"
    assert "x" not in crashes[0].evidence["trial"]["gradients"]
    note(crashes[0], 1)


def test_the_fix_is_silent(silent):
    # The guard of this process has nothing to look at: the training runs in the child.
    assert silent(play, allowed=("degraded",)).number("exit status") == 0.0
