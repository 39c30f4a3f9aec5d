"""cdist measures points far from the origin differently in batches of more than 25.

Symptom
    A point's distance to itself is 0.7, and the same pair of points has one distance in a full batch and another in the
    last, smaller batch of the epoch. Nearest neighbours and contrastive losses depend on the batch size.
Cause
    Above 25 rows cdist switches to |a|^2 + |b|^2 - 2ab, whose large terms should cancel and do not: features with an
    offset of 1,000 have squares of 4e6, and fp32 leaves an error of about one half in the difference.
Fix
    compute_mode="donot_use_mm_for_euclid_dist", or features that are centred first.
Affected
    torch 2.13 on the CPU and on GPUs, documented as a choice; issues 57690, 42479 and 37734. Live: nothing here is
    emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="57690",
    url="https://github.com/pytorch/pytorch/issues/57690",
    family="reduction-accuracy",
    kind="by design",
    catalogue="L22-cdist-mm-cancel",
    found_by="guard",
)
POINTS, BATCH, OFFSET = 50, 30, 1000.0


def play(stage: Stage) -> None:
    points = stage.cast(torch.randn(POINTS, 4) + OFFSET, torch.float32)
    mode = "donot_use_mm_for_euclid_dist" if stage.fixed else "use_mm_for_euclid_dist_if_necessary"
    to_itself = []
    with stage.watched():
        for batch in points.split(BATCH):  # the last one has 20 rows
            distances = torch.cdist(batch, batch, compute_mode=mode)
            to_itself.append(float(distances.diagonal().max()))
            stage.step()
    stage.keep("distance to itself, full batch", to_itself[0])
    stage.keep("distance to itself, last batch", to_itself[1])


def test_the_bug_shows(tell):
    broken = perform(play)
    full, last = broken.number("distance to itself, full batch"), broken.number("distance to itself, last batch")
    tell("a point's distance to itself:", full, "among", BATCH, "points,", last, "among", POINTS - BATCH)
    assert full > 0.5
    assert last == 0.0


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="dist")
    assert finding.first_caught_step == 0
    assert finding.forward_error is not None
    assert finding.forward_error > 0.5


def test_the_fix_is_silent(silent):
    assert silent(play).number("distance to itself, full batch") == 0.0
