"""Regions in a guarded run: what belongs to which module, the script's own part, the budget, the same bits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import numguard
from numguard.demonstration.training_script import GPT, WIDTH
from numguard.testing import faulty_kernel
from tests.models import Training, build
from tests.regions.hand_written import one_pass_norm, softmax_without_maximum
from tests.session.small_net import digest


class OnePassNorm(nn.Module):
    """A layer norm written as ``E[x**2] - E[x]**2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return one_pass_norm(x) * self.weight + self.bias


def small_gpt(*, one_pass: bool, shift: float) -> nn.Module:
    """Return the demo's GPT in bf16, whose residual stream has a mean of ``shift``."""
    torch.manual_seed(0)
    model = GPT()
    if one_pass:
        model.blocks[1].norm1 = OnePassNorm(WIDTH)
    with torch.no_grad():
        model.tokens.weight.add_(shift)
    return model.bfloat16()


def train(model: nn.Module, *, num_steps: int, **options: Any) -> tuple[Any, str]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with numguard.guard(model, optimizer, **options) as g:
        for step in range(num_steps):
            tokens = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(step))
            loss, _ = model(tokens, tokens.roll(-1, 1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            g.step(loss)
    assert not any(module._compiled_call_impl for module in model.modules())
    return g, digest(model.parameters())


def unstable(guard: Any) -> list[str]:
    return [finding.module for finding in guard.findings if finding.kind == "unstable_region"]


def test_a_one_pass_layer_norm_of_the_small_gpt_is_found() -> None:
    guard, _ = train(small_gpt(one_pass=True, shift=30.0), num_steps=2, budget=None)
    assert unstable(guard) == ["blocks.1.norm1"]
    finding = next(f for f in guard.findings if f.kind == "unstable_region")
    assert finding.first_caught_step == 0
    assert finding.ratio is not None
    assert finding.ratio > 100.0
    assert finding.location is not None
    assert "test_regions.py" in finding.location


@pytest.mark.parametrize(("one_pass", "shift"), [(False, 30.0), (True, 0.0)])
def test_the_small_gpt_is_silent_where_nothing_is_lost(one_pass: bool, shift: float) -> None:
    guard, _ = train(small_gpt(one_pass=one_pass, shift=shift), num_steps=2, budget=None)
    assert unstable(guard) == []
    assert {site.module for site in guard.coverage.sites if site.op == "region (own)"} >= {"blocks.0", "loss"}


def test_it_is_found_within_a_budget_and_the_run_is_the_same() -> None:
    _, bare = train(small_gpt(one_pass=True, shift=30.0), num_steps=40, checks="sum", skip="sum")
    guard, guarded = train(small_gpt(one_pass=True, shift=30.0), num_steps=40, budget=0.9)
    assert guarded == bare
    assert unstable(guard) == ["blocks.1.norm1"]


class Parent(nn.Module):
    """Computes before and after its child; only its own part is unstable."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.child(softmax_without_maximum(x)) * 2.0


class Loop(nn.Module):
    """A parent in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = Parent()

    def forward(self, x: Tensor) -> Tensor:
        return self.parent(x)


def run(model: nn.Module, script: Callable[[Tensor], Tensor], x: Tensor, **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with numguard.guard(model, optimizer, budget=None, **options) as g:
        for _ in range(2):
            loss = script(model(x))
            loss.backward()
            optimizer.step()
            g.step(loss)
    assert [f.message for f in g.findings if f.kind == "degraded"] == []
    return g


def test_what_a_module_computes_itself_is_its_own() -> None:
    x = torch.full((2, 8), 100.0)
    guard = run(Loop(), lambda y: y.nan_to_num().sum(), x)
    assert unstable(guard) == ["parent"]


def test_a_declared_region_is_looked_at_whole() -> None:
    guard = run(Loop(), lambda y: y.sum(), torch.randn(2, 8), regions="parent")
    assert [site.module for site in guard.coverage.sites if site.op == "region (whole)"] == ["parent"]
    assert unstable(guard) == []


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_what_the_script_computes_is_looked_at(scale: float) -> None:
    def naive_loss(logits: Tensor) -> Tensor:
        return -torch.log(torch.softmax(logits * scale, -1).clamp(min=0.0))[:, 0].clamp(max=1e3).sum()

    def loss(logits: Tensor) -> Tensor:
        return -F.log_softmax(logits * scale, -1)[:, 0].sum()

    torch.manual_seed(1)
    model, x = nn.Linear(8, 8), torch.randn(32, 8)
    guard = run(model, naive_loss, x)
    found = [f for f in guard.findings if f.kind == "unstable_region"]
    assert len(found) == (1 if scale > 1.0 else 0)
    assert all("training script" in finding.message for finding in found)
    assert unstable(run(model, loss, x)) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast"])
@pytest.mark.parametrize("name", ["gpt", "gpt_modern", "resnet", "moe", "lstm", "unet"])
def test_clean_training_is_silent(name: str, precision: Any) -> None:
    training = Training(build(name), precision)
    with numguard.guard(training.model, training.optimizer, budget=None) as g:
        for step in range(2):
            g.step(training.step(step))
    wanted = ("unstable_region", "corruption", "changed_outside_optimizer")
    assert [finding.message for finding in g.findings if finding.kind in wanted] == []
    assert [f.message for f in g.findings if f.evidence.get("stage") in ("regions", "provenance")] == []
    assert sum(site.checked for site in g.coverage.sites if site.op.startswith("region")) >= 2


@pytest.mark.parametrize("corrupt", [lambda call: call.results[0].add_(1), lambda call: call.results[0].fill_(-3)])
def test_a_wrong_sum_of_torch_does_not_mislead_what_judges_regions(corrupt: Callable[[Any], object]) -> None:
    torch.manual_seed(0)
    model, x = Loop().bfloat16(), torch.randn(2, 8).bfloat16()
    with faulty_kernel("aten::sum.dim_IntList", corrupt):
        guard = run(model, lambda y: (y * 3.0).square().sum(), x)  # no `degraded`: run() sees to it
    assert "wrong_result" in [finding.kind for finding in guard.findings]
    assert any(site.checked for site in guard.coverage.sites if site.op.startswith("region"))
