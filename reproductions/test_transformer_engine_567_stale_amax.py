"""FP8 with delayed scaling: the scale belongs to the weights before the checkpoint was loaded.

Symptom
    The first evaluation after loading a checkpoint is hopeless, as if the checkpoint were broken.
Cause
    The scale comes from the largest magnitudes of the last steps. Loading copies weights but not that history: weights
    of 100 times the size are multiplied by the old scale and clipped to 448.
Fix
    Renew the history when weights are copied.
Affected
    TransformerEngine before 1.3. What is emulated: the linear layer with its history, written again. What is real: the
    rounding to ``float8_e4m3fn``, training, loading a state dict, evaluation. The rounding is a kernel of its author's,
    who says through ``numguard.shadowed`` what it may be off by.
"""

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="TransformerEngine",
    issue="567",
    url="https://github.com/NVIDIA/TransformerEngine/pull/567",
    family="fp8",
    kind="emulated",
    catalogue="E32-fp8-stale-amax",
    found_by="guard",
    declared=True,
)
WIDTH, TRAINED, EVALUATED = 32, 4, 3
LARGEST = torch.finfo(torch.float8_e4m3fn).max


def _unrounded(x: Tensor, scale: Tensor) -> Tensor:
    return x.double()


def _half_a_spacing(x: Tensor, scale: Tensor) -> Tensor:
    """Return half the spacing of e4m3: 2^-4 of a value, 2^-10 for subnormals when the largest value is at 448."""
    x = x.double().abs()
    return 2.0**-4 * x + 2.0**-10 * x.max() / LARGEST


@numguard.shadowed(reference=_unrounded, error_bound=_half_a_spacing, share=1.0)
def through_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """Round to fp8 with a scale, and return."""
    return (x * scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(x.dtype) / scale


class Float8Linear(torch.nn.Linear):
    """A linear layer whose weight is multiplied in fp8, scaled by the largest magnitude of the last training steps."""

    amax_history: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, width, bias=False)
        self.register_buffer("amax_history", torch.zeros(16), persistent=False)
        self.renew()

    def renew(self) -> None:
        """Fill the history with the largest magnitude of the weight as it is."""
        self.amax_history.fill_(self.weight.detach().abs().max())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the rounded weight; its gradient goes to the weight itself."""
        scale = LARGEST / self.amax_history.max()
        rounded = through_fp8(self.weight.detach(), scale)
        if self.training:
            self.amax_history.copy_(self.amax_history.roll(1))
            self.amax_history[0] = self.weight.detach().abs().max()
        return torch.nn.functional.linear(x, self.weight + (rounded - self.weight).detach())


def play(stage: Stage) -> None:
    layer = Float8Linear(WIDTH)
    with torch.no_grad():
        layer.weight.mul_(0.1)
    layer.renew()
    layer = stage.cast(layer, torch.float32)
    checkpoint = {"weight": stage.cast(torch.randn(WIDTH, WIDTH), torch.float32)}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    with stage.watched(layer, optimizer):
        for _ in range(TRAINED):
            x = stage.cast(torch.randn(64, WIDTH), torch.float32)
            loss = (layer(x) - 0.01 * x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
        layer.load_state_dict(checkpoint)
        if stage.fixed:
            layer.renew()
        layer.eval()
        for _ in range(EVALUATED):
            x = stage.cast(torch.randn(64, WIDTH), torch.float32)
            with torch.no_grad():
                right = torch.nn.functional.linear(x, checkpoint["weight"])
                got = layer(x)
                stage.step((got - right).square().mean())
    stage.keep("relative error", (got - right).norm() / right.norm())
    stage.keep("output", got)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("relative error after loading:", broken.number("relative error"), "| fixed:", fixed.number("relative error"))
    assert broken.number("relative error") > 0.9
    assert fixed.number("relative error") < 0.05


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="through_fp8")
    assert finding.first_caught_step == TRAINED, "in the first evaluation after loading"
    assert finding.severity == "warning", "the reference and the bound are the author's"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == TRAINED + EVALUATED
