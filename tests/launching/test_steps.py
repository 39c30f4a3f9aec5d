"""Training steps and losses are found from outside, in every shape that real loops take."""

from collections.abc import Iterator
from typing import cast

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from numguard.launching.steps import StepFinder


class Recorder:
    """Remembers every step that a finder reports."""

    def __init__(self) -> None:
        self.losses: list[float | None] = []
        self.optimizers: list[Optimizer] = []

    def __call__(self, optimizer: Optimizer, loss: Tensor | None) -> None:
        self.losses.append(None if loss is None else float(loss))
        self.optimizers.append(optimizer)


@pytest.fixture
def found() -> Iterator[Recorder]:
    recorder = Recorder()
    with StepFinder(recorder):
        yield recorder


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _loss(model: nn.Module, step: int) -> Tensor:
    x = torch.full((3, 4), 0.1 * (step + 1))
    result: Tensor = model(x).square().mean()
    return result


def test_plain_loop(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    for step in range(5):
        optimizer.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert found.losses == expected
    assert found.optimizers == [optimizer] * 5


def test_a_loss_changed_in_place_after_backward_keeps_its_value(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = _loss(model, 0)
    value = loss.item()
    loss.backward()
    loss.detach().mul_(100.0)
    optimizer.step()
    assert found.losses == [value]


def test_accumulated_losses_add_up(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    expected = []
    for step in range(2):
        total = torch.zeros(())
        for micro in range(3):
            loss = _loss(model, 3 * step + micro) / 3
            loss.backward()
            total = total + loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total.item())
    assert found.losses == pytest.approx(expected, rel=4 * torch.finfo(torch.float32).eps)


def test_two_optimizers_on_one_loss_make_one_step(found: Recorder, model: nn.Module) -> None:
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)  # type: ignore[index]
    second = torch.optim.SGD(model[2].parameters(), lr=0.1)  # type: ignore[index]
    expected = []
    for step in range(3):
        loss = _loss(model, step)
        loss.backward()
        first.step()
        second.step()
        expected.append(loss.item())
    assert found.losses == expected
    assert found.optimizers == [first] * 3


def test_adversaries_make_one_step_with_both_losses(found: Recorder, model: nn.Module) -> None:
    rival = nn.Linear(4, 1)
    ours, theirs = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(rival.parameters(), lr=0.1)
    values = []
    for step in range(3):
        for network, optimizer in ((model, ours), (rival, theirs)):
            loss = _loss(network, step)
            loss.backward()
            optimizer.step()
            values.append(loss.item())
    assert found.losses == pytest.approx([values[0], values[1] + values[2], values[3] + values[4]], rel=1e-6)


def test_another_optimizer_leads_when_the_first_falls_silent(found: Recorder, model: nn.Module) -> None:
    warm, main = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    for optimizer in (warm, warm, main, main, main):
        _loss(model, 0).backward()
        optimizer.step()
    assert found.optimizers == [warm, warm, main, main]


def test_an_optimizer_that_died_is_followed_by_the_next(found: Recorder, model: nn.Module) -> None:
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        _loss(model, 0).backward()
        optimizer.step()
        found.optimizers.clear()
        del optimizer
    assert len(found.losses) == 2


def test_loss_scale_is_taken_out(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = []
    for step in range(3):
        optimizer.zero_grad()
        loss = _loss(model, step)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        expected.append(loss.item())
    assert found.losses == expected


def test_a_skipped_step_is_a_step(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    expected = []
    for step in range(4):
        optimizer.zero_grad()
        loss = _loss(model, step)
        scaler.scale(loss * (torch.inf if step == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        expected.append(loss.item() if step != 2 else torch.inf)
    assert found.losses == expected


def test_line_search_counts_its_first_loss(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    expected = []
    for step in range(3):
        values: list[float] = []

        def closure(step: int = step, values: list[float] = values) -> Tensor:
            optimizer.zero_grad()
            loss = _loss(model, step)
            loss.backward()
            values.append(loss.item())
            return loss

        optimizer.step(closure)
        expected.append(values[0])
        assert len(values) > 1
    assert found.losses == expected


def test_one_optimizer_for_each_parameter_makes_one_step(found: Recorder, model: nn.Module) -> None:
    parameters = list(model.parameters())
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in parameters}
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    expected = []
    for step in range(3):
        loss = _loss(model, step)
        loss.backward()
        expected.append(loss.item())
    assert found.losses == expected


def test_reentrant_checkpoint_is_no_loss(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.ones(3, 4, requires_grad=True)
    loss = checkpoint(model, x, use_reentrant=True).square().mean()
    loss.backward()
    optimizer.step()
    assert found.losses == [loss.item()]


def test_a_vector_root_is_no_loss(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    y = model(torch.ones(3, 4))
    y.backward(torch.ones_like(y))
    optimizer.step()
    assert found.losses == [None]


def test_an_exception_in_backward_leaves_the_finder_sound(found: Recorder, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        model(torch.ones(3, 4)).backward()
    loss = _loss(model, 0)
    loss.backward()
    optimizer.step()
    assert found.losses == [loss.item()]


def test_everything_is_put_back() -> None:
    before = torch.autograd.backward, torch.amp.GradScaler.scale, torch.amp.GradScaler.step
    recorder = Recorder()
    with StepFinder(recorder):
        assert torch.autograd.backward is not before[0]
    assert (torch.autograd.backward, torch.amp.GradScaler.scale, torch.amp.GradScaler.step) == before
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    assert recorder.losses == []


def test_training_is_bitwise_the_same(model: nn.Module) -> None:
    def train() -> list[Tensor]:
        torch.manual_seed(1)
        twin = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(twin.parameters())
        for step in range(10):
            _loss(twin, step).backward()
            optimizer.step()
        return [*(parameter.detach() for parameter in twin.parameters()), torch.get_rng_state()]

    bare = train()
    with StepFinder(Recorder()):
        watched = train()
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))


def test_compiled_step_keeps_its_graph(found: Recorder, model: nn.Module) -> None:
    counter = torch._dynamo.testing.CompileCounter()
    compiled = cast(nn.Module, torch.compile(model, backend=counter))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        loss = _loss(compiled, step)
        loss.backward()
        optimizer.step()
    assert counter.frame_count == 1
    assert len(found.losses) == 4
