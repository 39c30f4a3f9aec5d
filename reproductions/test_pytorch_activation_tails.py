"""gelu(-6) is 0, tanhshrink of small numbers is noise, softplus ends at 20.

Symptom
    Activations in the tail are exactly 0, or off by percents, where the function has a small value: a gelu unit at -6
    returns 0 instead of -5.9e-9, tanhshrink(1e-3) is 4.8 % off, softplus in fp64 has a step of 2e-9 at 20.
Cause
    0.5 * (1 + erf) and x - tanh(x) cancel; softplus returns x above its threshold of 20, in every dtype.
Fix
    erfc for gelu, a series for tanhshrink, log1p(exp(-x)) without a threshold for softplus.
Affected
    torch 2.13 on the CPU. Live: nothing here is emulated. The audit sees tanhshrink with nothing declared, as it holds
    every elementwise function against float64 (of gelu the worst that it sees is an overflow, at 2e38); a guard sees
    all three where the modules are held against their reference forms.
"""

import math

import pytest
import torch
from torch import Tensor

from reproductions.audits import audited
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="tails of activations",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/Activation.cpp",
    family="elementwise",
    kind="by design",
    catalogue="L45-tails",
    found_by="audit",
)


def shrunk(state: object, x: Tensor) -> Tensor:
    """Return ``x - tanh(x)``, for ``regions=``: by its series where the difference cancels."""
    x2 = x * x
    series = x * x2 / 3 * (1 - x2 * 2 / 5 * (1 - x2 * 17 / 42))
    return torch.where(x.abs() < 0.02, series, x - torch.tanh(x))


REGIONS = {"gelu": "gelu", "softplus": "softplus", "tanhshrink": shrunk}


class Gelu(torch.nn.Module):
    """gelu by erfc."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * torch.erfc(-x / math.sqrt(2.0))


class Softplus(torch.nn.Module):
    """softplus without a threshold."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))


class Tanhshrink(torch.nn.Module):
    """tanhshrink by its series near 0."""

    def forward(self, x: Tensor) -> Tensor:
        return shrunk(None, x)


class Tails(torch.nn.Module):
    """Three activations, each of a feature in its tail."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.gelu: torch.nn.Module = Gelu() if fixed else torch.nn.GELU()
        self.tanhshrink: torch.nn.Module = Tanhshrink() if fixed else torch.nn.Tanhshrink()
        self.softplus: torch.nn.Module = Softplus() if fixed else torch.nn.Softplus()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The threshold matters where the format is fine enough to see it.
        return self.gelu(x - 6.0), self.tanhshrink(x * 1e-3), self.softplus(x.double() + 19.1)


def play(stage: Stage) -> None:
    model = Tails(stage.fixed)
    x = stage.cast(torch.tensor([1.0]), torch.float32)
    with stage.watched(model):
        gelu, tanhshrink, softplus = model(x - torch.tensor([0.0, 1.0], dtype=x.dtype))
        stage.step(gelu.sum())
    stage.keep("gelu(-6)", gelu[1])
    stage.keep("tanhshrink(1e-3)", tanhshrink[0])
    stage.keep("softplus(20.1) - 20.1", softplus[0] - 20.1)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    for name in broken.kept:
        tell(name, "is", broken.number(name), "right:", fixed.number(name))
    assert broken.number("gelu(-6)") == 0.0
    assert fixed.number("gelu(-6)") == pytest.approx(-5.919525870e-9, rel=1e-5)
    assert broken.number("tanhshrink(1e-3)") == pytest.approx(1.048 * 1e-9 / 3, rel=1e-2)
    assert broken.number("softplus(20.1) - 20.1") == 0.0
    assert fixed.number("softplus(20.1) - 20.1") == pytest.approx(math.log1p(math.exp(-20.1)), rel=1e-5)


def test_numguard_finds_it(tell, note):
    report = audited("elementwise", only="tanhshrink|gelu")
    messages = {finding.message for finding in report.findings if "float32" in finding.message}
    for message in sorted(messages):
        tell(message)
    shrunk = [
        f for f in report.findings if f.message.startswith("torch.nn.functional.tanhshrink") and "float32" in f.message
    ]
    assert [finding.kind for finding in shrunk] == ["unstable_region"]
    assert shrunk[0].ratio > 1e3
    note(shrunk[0], 1)


@pytest.mark.parametrize("module", ["tanhshrink", "softplus", "gelu"])
def test_a_guard_finds_it_by_the_reference_form(found, module):
    finding = found(play, kind="unstable_region", module=module, regions=REGIONS)
    assert finding.ratio > 8.0


def test_the_fix_is_silent(silent):
    assert silent(play, regions=REGIONS).number("gelu(-6)") < 0.0
