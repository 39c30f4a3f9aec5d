"""Adam never updates the parameter that was made by a transposition.

Symptom
    The loss of a sparse autoencoder plateaus. Gradients, moments and all other parameters are healthy; the encoder,
    which was initialised as the transpose of the decoder, is bit for bit what it was.
Cause
    On MPS, addcdiv_ and addcmul_ made an output that is not contiguous contiguous, wrote into that copy, and never
    copied it back.
Fix
    Copy the result back to the strided output.
Affected
    MPS in torch 2.1 to 2.3, issues 118115 and 118117, pull request 124442; fixed in 2.4. Emulated: the kernels under
    aten::addcmul_ and aten::addcdiv_. What is real: the autoencoder, Adam, and everything above the kernels.
"""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="118115",
    url="https://github.com/pytorch/pytorch/issues/118115",
    family="optimizer",
    kind="emulated",
    catalogue="E10-mps-addcdiv-noncontig",
    found_by="guard",
)
WIDTH, FEATURES, ROWS, STEPS = 8, 24, 32, 25


def _is_strided(arguments: dict[str, object]) -> bool:
    output = arguments["self"]
    return isinstance(output, Tensor) and output.dtype is torch.float32 and not output.is_contiguous()


def _keeps_it_to_itself(call: KernelCall) -> None:
    """Leave the output as it was: the result went into a copy."""
    call.results[0].copy_(call.before["self"])


class Autoencoder(torch.nn.Module):
    """Sparse, its encoder starting as the decoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Parameter(torch.randn(FEATURES, WIDTH) / WIDTH**0.5)
        self.encoder = torch.nn.Parameter(self.decoder.detach().clone().t())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.encoder) @ self.decoder


def play(stage: Stage) -> None:
    model = stage.cast(Autoencoder(), torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, foreach=False)
    x = stage.cast(torch.randn(ROWS, WIDTH), torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with ExitStack() as bugs:
        for op in () if stage.fixed else ("aten::addcmul_", "aten::addcdiv_"):
            bugs.enter_context(faulty_kernel(op, _keeps_it_to_itself, when=_is_strided))
        with stage.watched(model, optimizer):
            for _ in range(STEPS):
                loss = (model(x) - x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                stage.step(loss)
    for name, parameter in model.named_parameters():
        stage.keep(f"{name} moved", (parameter.detach() - before[name]).abs().max())
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("loss at the end", broken.losses[-1], "right", fixed.losses[-1])
    tell("encoder moved", broken.number("encoder moved"), "decoder moved", broken.number("decoder moved"))
    assert broken.number("encoder moved") == 0.0
    assert broken.number("decoder moved") > 0.01
    assert fixed.number("encoder moved") > 0.01
    assert broken.losses[-1] > fixed.losses[-1]


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="addcdiv_")
    assert finding.severity == "error"
    assert finding.phase == "optimizer"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert silent(play).number("encoder moved") > 0.01
