"""LayerNorm over one element lets through what it should remove.

Symptom
    A LayerNorm of size one, as a ragged configuration makes it: its output should be its bias whatever comes in. In
    bf16 it is 11 instead of 3; in fp32 the output is right, but the weight gets a gradient of 7.2 that should be 0.
Cause
    x * rstd - mean * rstd instead of (x - mean) * rstd: two large products that should cancel and do not.
Fix
    Subtract the mean before scaling.
Affected
    torch 2.13 on the CPU; issue 188375 is open. Live: nothing here is emulated. The error is within the bound that
    numguard's check grants the kernel's own formula. The audit sees it with nothing declared, on data far from zero in
    rows of one element; a guard sees it where the module is held against its reference form,
    ``guard(regions={"norm": "layer_norm"})``.
"""

import pytest
import torch
from torch import Tensor

from reproductions.audits import audited
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="188375",
    url="https://github.com/pytorch/pytorch/issues/188375",
    family="normalization-forward",
    kind="live",
    catalogue="L11-layernorm-size1",
    found_by="audit",
)
REGIONS = {"norm": "layer_norm"}


class CentredLayerNorm(torch.nn.LayerNorm):
    """LayerNorm that subtracts the mean first."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


class Head(torch.nn.Module):
    """A normalised feature of width one."""

    def __init__(self, *, centred: bool) -> None:
        super().__init__()
        self.norm = (CentredLayerNorm if centred else torch.nn.LayerNorm)(1)
        torch.nn.init.constant_(self.norm.weight, 2.0)
        torch.nn.init.constant_(self.norm.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def play(stage: Stage) -> None:
    head = stage.cast(Head(centred=stage.fixed), torch.bfloat16)
    with stage.watched(head):
        y = head(stage.cast(torch.tensor([[1.5], [1e3], [1e6]]), torch.bfloat16))
        y.sum().backward()
        stage.step()
    assert head.norm.weight.grad is not None
    stage.keep("output", y[:, 0])
    stage.keep("gradient of the weight", head.norm.weight.grad[0])


def test_the_bug_shows(tell):
    output = perform(play).kept["output"]
    tell("output", *output, "of 3")
    assert output.tolist() == [3.0, 3.0, 11.0]


def test_the_gradient_of_the_weight_in_fp32(tell):
    weight = torch.tensor([2.0], requires_grad=True)
    torch.nn.functional.layer_norm(torch.tensor([1e6]), (1,), weight, torch.tensor([3.0])).sum().backward()
    tell("gradient of the weight", weight.grad[0], "of 0")
    assert float(weight.grad) > 1.0


def test_numguard_finds_it(tell, note):
    report = audited("normalisation", only="layer_norm")
    hits = [finding for finding in report.findings if "w.grad of F.layer_norm" in finding.message]
    far = [finding for finding in hits if finding.kind == "unstable_region" and "float32" in finding.message]
    tell(far[0].message)
    assert len(far) == 1
    assert far[0].ratio > 1e3
    note(far[0], 1)


def test_a_guard_finds_it_by_the_reference_form(found):
    finding = found(play, kind="unstable_region", module="norm", regions=REGIONS)
    assert finding.ratio > 100.0


def test_the_fix_is_silent(silent):
    stage = silent(play, regions=REGIONS)
    assert stage.kept["output"].tolist() == [3.0, 3.0, 3.0]
    assert stage.number("gradient of the weight") == 0.0
