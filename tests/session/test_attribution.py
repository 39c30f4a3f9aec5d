"""Every checked call is told by module and line, forward and backward, recomputed, compiled, and in the optimizer."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import numguard


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)  # norm line
        return x.softmax(-1)  # softmax line


class Model(nn.Module):
    def __init__(self, recompute: bool | None = None) -> None:
        super().__init__()
        self.first, self.second = Normed(), Normed()
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.recompute is not None:
            return checkpoint(self.second, x, use_reentrant=self.recompute)
        return self.second(x)


def line_of(words: str) -> str:
    lines, first = inspect.getsourcelines(Normed)
    return next(f"test_attribution.py:{first + n}" for n, line in enumerate(lines) if words in line)


def sites(model: nn.Module, call: Any = None, **options: Any) -> list[Any]:
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    call = call or model
    with numguard.guard(call, optimizer, budget=None) as guard:
        for _ in range(2):
            loss = (
                call(torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)).square().sum()
            )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            guard.step(loss)
    assert [finding.message for finding in guard.findings] == []
    return list(guard.coverage.sites)


@pytest.mark.parametrize("recompute", [None, False, True])
def test_forward_and_backward_lead_to_the_same_line(recompute: bool | None) -> None:
    seen = {
        (s.op.partition("::")[2], s.phase, s.module, (s.location or "").rpartition("/")[2])
        for s in sites(Model(recompute))
    }
    norm, softmax = line_of("norm line"), line_of("softmax line")
    again = "forward" if recompute is None else "backward"
    for module, phase in (("first", "forward"), ("second", "forward"), ("second", again)):
        assert ("native_layer_norm", phase, f"{module}.norm", norm) in seen
        assert ("_softmax", phase, module, softmax) in seen
    for module in ("first", "second"):
        assert ("native_layer_norm_backward", "backward", f"{module}.norm", norm) in seen
        assert ("_softmax_backward_data", "backward", module, softmax) in seen


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_the_optimizer_is_a_phase_of_its_own(options: dict[str, bool]) -> None:
    found = sites(Model(), **options)
    names = {"fused": "_fused_adam", "foreach": "_foreach_", "plain": "addcdiv"}
    name = next((names[key] for key, value in options.items() if value), names["plain"])
    updates = [site for site in found if name in site.op]
    assert updates
    assert {site.phase for site in updates} == {"optimizer"}
    norms = [site for site in found if "norm" in site.op and "layer" not in site.op]
    assert {site.phase for site in norms} == {"optimizer"}


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_names_its_module() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    found = sites(model, torch.compile(model, backend="aot_eager"))
    products = [site for site in found if "addmm" in site.op]
    assert products
    assert {site.phase for site in products} == {"forward"}
    assert all(site.module for site in products)


def test_a_model_that_the_guard_does_not_know_is_named_by_class() -> None:
    model = Model()
    with numguard.guard(budget=None) as guard:
        guard.step(model(torch.ones(4, 8)).sum())
    assert {site.module for site in guard.coverage.sites if "norm" in site.op} == {"LayerNorm"}


def test_a_copy_of_a_file_is_a_file_of_its_own(tmp_path: Path) -> None:
    """The same text in two files gives code objects that compare equal; each has lines of its own to name."""
    text = "def total(x):\n    return x.sum()\n"
    places = []
    for name in ("first.py", "second.py"):
        path = tmp_path / name
        path.write_text(text)
        scope: dict[str, Any] = {}
        exec(compile(text, str(path), "exec"), scope)
        with numguard.guard(budget=None) as guard:
            scope["total"](torch.rand(64))
            guard.step(1.0)
        places += [site.location for site in guard.coverage.sites]
    assert [place.rpartition("/")[2] for place in places if place] == ["first.py:2", "second.py:2"]
