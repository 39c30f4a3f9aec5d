"""Where a NaN was born: the block at any budget, the operator when every operator is looked at."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import numguard
from tests.session.small_net import Block, batch

NUM_BLOCKS = 3


class Poison(torch.autograd.Function):
    """The identity, which writes a NaN or Inf into its result or its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: bool, value: float) -> Tensor:
        ctx.forward, ctx.value = forward, value
        return PLANT(x, value) if forward else x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient if ctx.forward else PLANT(gradient, ctx.value), None, None


def _plant(x: Tensor, value: float) -> Tensor:
    wrong = x.clone()
    wrong.view(-1)[x.numel() // 3] = value
    return wrong


LIBRARY = torch.library.Library("numguard_tests", "FRAGMENT")
LIBRARY.define("plant(Tensor x, float value) -> Tensor")
LIBRARY.impl("plant", lambda x, value: _plant(x, float({0: "nan", 1: "inf"}[int(value)])), "CPU")
PLANT = torch.ops.numguard_tests.plant


class Chain(nn.Module):
    """Blocks, one of which is poisoned in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.blocks = nn.ModuleList(Poisoned() for _ in range(NUM_BLOCKS))
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Poisoned(Block):
    poison: tuple[bool, float] | None = None

    def forward(self, x: Tensor) -> Any:
        if self.poison is not None:
            x = Poison.apply(self.norm(x), *self.poison)
        return super().forward(x)


def train(budget: float | None, num_steps: int, before: Callable[[int, Chain], None], **options: Any) -> Any:
    torch.manual_seed(0)
    model = Chain()
    update = torch.optim.SGD(model.parameters(), **{"lr": 1e-3, **options})
    with numguard.guard(model, update, budget=budget, checks="sum") as guard:
        for step in range(num_steps):
            before(step, model)
            loss = nn.functional.cross_entropy(model(batch(step)).flatten(0, 1), batch(step).flatten())
            loss.backward()
            update.step()
            update.zero_grad()
            guard.step(loss)
    return guard


def injections(count: int) -> list[tuple[int, int, bool, int]]:
    """Return seeded ``(step, block, forward, value)``: value 0 is NaN, 1 is Inf."""
    draw = random.Random(5)
    return [
        (draw.randint(1, 4), draw.randrange(NUM_BLOCKS), draw.random() < 0.5, draw.randrange(2)) for _ in range(count)
    ]


def poisoning(step: int, block: int, forward: bool, value: int) -> Callable[[int, Chain], None]:
    def before(now: int, model: Chain) -> None:
        model.blocks[block].poison = (forward, float(value)) if now == step else None

    return before


def first(guard: Any) -> Any:
    found = [finding for finding in guard.findings if finding.kind == "nonfinite"]
    assert found, "the non-finite value was not noticed"
    assert {finding.kind for finding in guard.findings} == {"nonfinite"}
    return found[0]


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_the_block_is_exact_at_the_default_budget(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps of a real model pay for every block; those of this one would pay for a few.
    monkeypatch.setattr("numguard.session.run.affordable_marks", lambda *_: (96, 96))
    wrong = []
    for step, block, forward, value in injections(count):
        found = first(train(0.01, step + 2, poisoning(step, block, forward, value)))
        expected = (step, f"blocks.{block}", "forward" if forward else "backward")
        if (found.first_caught_step, found.module, found.phase) != expected:
            wrong.append((expected, value, found.first_caught_step, found.module, found.phase))
    assert wrong == []


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_the_operator_is_exact_when_every_one_is_looked_at(count: int) -> None:
    wrong = []
    for step, block, forward, value in injections(count):
        found = first(train(None, step + 2, poisoning(step, block, forward, value)))
        expected = (step, "numguard_tests::plant", "forward" if forward else "backward")
        # A backward operator of a custom function may be told by the module of its neighbour in the same block.
        if (found.first_caught_step, found.op, found.phase) != expected or f"blocks.{block}" not in found.module:
            wrong.append((expected, block, value, found.first_caught_step, found.op, found.phase, found.module))
    assert wrong == []


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_an_optimizer_that_writes_a_nan_is_named(options: dict[str, bool]) -> None:
    def overflow(step: int, model: Chain) -> None:
        if step == 2:
            handle = model.head.weight.register_hook(lambda gradient: gradient * 0 + 3e38)
            model.handle = handle  # type: ignore[assignment]
        elif step == 3:
            model.handle.remove()  # type: ignore[operator]

    found = first(train(None, 4, overflow, lr=10.0, **options))
    assert found.phase == "optimizer"
    assert found.first_caught_step == 2


def messages(program: Callable[[Any], Tensor], num_steps: int = 3) -> list[str]:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer, budget=None) as guard:
        for _ in range(num_steps):
            loss = program(model)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            guard.step(loss)
    return [finding.message for finding in guard.findings]


def test_a_mask_of_minus_infinity_is_no_finding() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    assert (
        messages(lambda model: model(torch.ones(4, 4)).masked_fill(mask, -torch.inf).softmax(-1).square().sum()) == []
    )
    added = torch.zeros(4, 4).masked_fill(mask, -torch.inf)
    assert messages(lambda model: (model(torch.ones(4, 4)) + added).softmax(-1).square().sum()) == []
    assert (
        messages(lambda model: torch.where(mask, float("-inf"), model(torch.ones(4, 4))).softmax(-1).square().sum())
        == []
    )
    causal = {"is_causal": True}
    assert (
        messages(lambda m: nn.functional.scaled_dot_product_attention(*[m(torch.ones(1, 4, 4))] * 3, **causal).sum())
        == []
    )


def test_rows_that_are_masked_whole_and_then_discarded_are_no_finding() -> None:
    mask = torch.tensor([[True] * 4, [False, True, True, True], [False] * 4, [False] * 4])

    def program(model: Any) -> Tensor:
        probabilities = model(torch.ones(4, 4)).detach().masked_fill(mask, -torch.inf).softmax(-1)
        return (torch.nan_to_num(probabilities) * model(torch.ones(4, 4))).sum()

    assert messages(program) == []


def test_a_step_that_a_scaler_skips_is_no_finding() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    with numguard.guard(model, optimizer, budget=None) as guard:
        for _ in range(4):
            loss = model(torch.full((2, 4), 1e3)).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            guard.step(loss)
    assert scaler.get_scale() < 2.0**120
    assert [finding.message for finding in guard.findings] == []


def test_a_step_that_the_user_skips_is_no_finding() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer, budget=None) as guard:
        for step in range(4):
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            if step == 1:
                model.weight.grad.fill_(torch.inf)  # type: ignore[union-attr]
            if torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 1.0)):
                optimizer.step()
            optimizer.zero_grad()
            guard.step(loss)
    assert [finding.message for finding in guard.findings] == []


def test_a_nan_that_comes_with_the_data_is_no_operators_fault() -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=None) as guard:
        loss = model(torch.tensor([[1.0, torch.nan, 0.0, 0.0]])).sum()
        guard.step(loss)
    (finding,) = guard.findings
    assert (finding.kind, finding.op) == ("nonfinite", "")
    assert "input" in finding.message


def test_a_part_that_is_finite_does_not_hide_the_birth() -> None:
    model = nn.Linear(4, 6)
    with numguard.guard(model, budget=None) as guard:
        scores = torch.log(model(torch.ones(2, 4)) * 0 + torch.tensor([1.0, 1, 1, -1, 1, 1]))
        query, key, value = scores.chunk(3, -1)
        loss = (query + value).sum() + key.sum()
        guard.step(loss)
    assert guard.findings[0].op == "aten::log"


def test_after_a_nan_the_next_steps_are_searched() -> None:
    guard = train(0.01, 8, lambda step, model: setattr(model.blocks[2], "poison", (True, 0.0) if step >= 3 else None))
    found = [finding for finding in guard.findings if finding.kind == "nonfinite"]
    assert found[0].module == "blocks.2"
    assert guard.overhead.burst_seconds > 0.0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
def test_a_birth_is_followed_through_float8(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 6)
    with numguard.guard(model, budget=None) as guard:
        root = torch.sqrt(model(torch.ones(2, 4)) * 0 - 1.0)
        loss = root.to(dtype).float().sum()
        guard.step(loss)
    assert guard.findings[0].op == "aten::sqrt"


def test_a_cast_beyond_a_float8_format_is_the_birth() -> None:
    model = nn.Linear(4, 6)
    with numguard.guard(model, budget=None) as guard:
        loss = (model(torch.ones(2, 4)) * 0 + 448.0).to(torch.float8_e4m3fnuz).float().sum()
        guard.step(loss)
    assert (guard.findings[0].op, guard.findings[0].evidence["dtype"]) == ("aten::_to_copy", "float8_e4m3fnuz")
