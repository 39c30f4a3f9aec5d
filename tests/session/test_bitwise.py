"""The guarded run is the same run, bit for bit, wherever two bare runs are equal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import numguard
from tests.session.small_net import Block, Net, train

ENOUGH = 500  # checks


@dataclass
class Result:
    """What some blocks return instead of a tensor."""

    hidden: Tensor
    note: str = ""


class Odd(nn.Module):
    """Blocks that return views, tuples, dicts, dataclasses, whose results change in place, and one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.view = Block(lambda x: x.transpose(0, 1))
        self.pair = Block(lambda x: (x, None))
        self.table = Block(lambda x: {"hidden": x})
        self.record = Block(lambda x: Result(x))
        self.twice = Block()
        self.last = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        base = self.view(self.embed(tokens))
        x = base.transpose(0, 1)
        base.mul_(1.5)  # the base of a view that a block returned
        x = self.pair(x)[0].add_(0.25)
        x = self.table(x)["hidden"]
        x[:, :1].mul_(0.5)
        x = self.record(x).hidden
        x = self.twice(self.twice(x).clone())
        return self.head(self.last(x))


def adamw(**options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, **options)


def evaluate(step: int, model: nn.Module) -> None:
    """Evaluate now and then inside the guarded block, without telling the guard."""
    if step % 10 == 0:
        model.eval()
        with torch.inference_mode() if step % 20 else torch.no_grad():
            model(torch.zeros(2, 5, dtype=torch.int64))
        model.train()


VARIANTS: dict[str, dict[str, Any]] = {
    "foreach": {"make_optimizer": adamw(foreach=True)},
    "plain": {"make_optimizer": adamw(foreach=False)},
    "fused": {"make_optimizer": adamw(fused=True)},
    "momentum": {"make_optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)},
    "reentrant": {"make_model": lambda: Net(recompute=True)},
    "recomputed": {"make_model": lambda: Net(recompute=False)},
    "fp16": {"autocast": torch.float16, "scaler": True},
    "bf16": {"autocast": torch.bfloat16},
    "odd": {"make_model": Odd, "between": evaluate},
    "ragged": {"rows": lambda step: 3 + step % 5},
}


def arguments(variant: str) -> dict[str, Any]:
    return {"make_model": Net, "make_optimizer": adamw(), "num_steps": 200} | VARIANTS[variant]


def ask_for_a_burst(step: int, guard: numguard.Guard) -> None:
    if step in (3, 120):
        guard.arm(12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_guarded_run_is_the_bare_run(variant: str) -> None:
    bare, _ = train(**arguments(variant))
    again, _ = train(**arguments(variant) | {"num_steps": 60})
    assert bare.steps[:60] == again.steps
    guarded, guard = train(
        **arguments(variant),
        guard=lambda model, optimizer: numguard.guard(model, optimizer, budget=0.5),
        request=ask_for_a_burst,
    )
    assert guarded == bare
    assert guard.coverage.num_checks >= ENOUGH
    assert [finding for finding in guard.findings if finding.severity == "error"] == []
    assert [finding.message for finding in guard.findings if finding.kind == "degraded"] == []
    assert not any(module._compiled_call_impl for module in guard._model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exhaustively_guarded_run_is_the_bare_run(variant: str) -> None:
    bare, _ = train(**arguments(variant))
    guarded, guard = train(**arguments(variant), guard=lambda *given: numguard.guard(*given, budget=None))
    assert guarded == bare
    assert guard.coverage.num_checks >= ENOUGH
    assert [finding for finding in guard.findings if finding.severity == "error"] == []


def compiled(num_steps: int, backend: str, guard: Callable[..., Any] | None = None) -> tuple[Any, Any, dict[str, int]]:
    """Train a compiled model whose batch changes its shape half way, and count what was compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trail, watched = train(
        Net,
        adamw(fused=True),
        num_steps=num_steps,
        guard=guard,
        rows=lambda step: 6 if step < num_steps // 2 else 4,
        wrap=lambda model: torch.compile(model, backend=backend),
        request=lambda step, g: g.arm(40) if step == num_steps // 2 + 2 else None,
    )
    counts = {f"{a}.{b}": n for a, group in torch._dynamo.utils.counters.items() for b, n in group.items()}
    return (
        trail,
        watched,
        {name: n for name, n in counts.items() if name.startswith(("stats", "frames", "graph_break"))},
    )


@pytest.mark.filterwarnings("ignore")  # of the compiler's own imports
@pytest.mark.parametrize(
    ("num_steps", "backend", "budget"),
    [
        (60, "aot_eager", None),  # a sample: armed while compiling, recompiling and running
        (200, "aot_eager", 0.5),  # compiled outside armed steps, boundaries thinned out
        pytest.param(200, "aot_eager", None, marks=pytest.mark.slow),
        pytest.param(200, "inductor", None, marks=pytest.mark.slow),
        pytest.param(200, "inductor", 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_model_stays_compiled_and_the_same(num_steps: int, backend: str, budget: float | None) -> None:
    bare, _, graphs = compiled(num_steps, backend)
    guarded, guard, with_guard = compiled(num_steps, backend, lambda *given: numguard.guard(*given, budget=budget))
    assert guarded == bare
    assert with_guard == graphs
    assert graphs["stats.unique_graphs"] >= 2
    assert guard.coverage.num_checks >= ENOUGH
    assert [finding for finding in guard.findings if finding.severity == "error"] == []
