"""What the optimizer wrote must still be there when it writes again; what a program writes is no corruption."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import numguard
from numguard.interception.memory_sums import bit_sums, can_be_summed, single_bit
from tests.session.small_net import Net, batch

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Buffered(nn.Module):
    """Weights, running statistics, a constant buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 20)
        self.register_buffer("frequencies", torch.linspace(0.5, 2.0, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(tokens[:, 0]) * self.frequencies))


def flip(tensor: Tensor, element: int, bit: int) -> None:
    """Flip one bit in memory, as a fault of the machine does: past autograd and the version counter."""
    bits = tensor.data.view(-1).view(INTEGERS[tensor.element_size()])
    one = torch.tensor(1, dtype=bits.dtype) << bit
    bits[element] ^= one


Act = Callable[[int, nn.Module, torch.optim.Optimizer, Any], None]


def train(act: Act, *, num_steps: int = 6, model: nn.Module | None = None, budget: float | None = None) -> Any:
    torch.manual_seed(3)
    model = Buffered() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with numguard.guard(model, optimizer, budget=budget) as g:
        for step in range(num_steps):
            tokens = batch(step)
            optimizer.zero_grad()
            logits = model(tokens)
            target = tokens.roll(1, 1) if logits.dim() == 3 else tokens[:, 0]
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())
            loss.backward()
            optimizer.step()
            g.step(loss)
            act(step, model, optimizer, g)
    assert [f.message for f in g.findings if f.kind == "degraded"] == []
    return g


def kinds(guard: Any) -> list[str]:
    return [f.kind for f in guard.findings if f.kind in ("corruption", "changed_outside_optimizer")]


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim() > 0]
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return {"weights": list(model.parameters()), "moments": moments, "buffers": buffers}


@pytest.mark.parametrize("what", ["weights", "moments", "buffers"])
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_found_before_the_next_write(what: str, seed: int) -> None:
    random = np.random.default_rng(seed)

    def act(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
        if step == 3:
            candidates = tensors(model, optimizer)[what]
            tensor = candidates[int(random.integers(len(candidates)))]
            flip(tensor, int(random.integers(tensor.numel())), int(random.integers(1, 32)))

    guard = train(act)
    assert kinds(guard) == ["corruption"]
    finding = next(f for f in guard.findings if f.kind == "corruption")
    assert (finding.severity, finding.proof, finding.confirmed) == ("error", "exact", "exact")
    assert (finding.last_clean_step, finding.first_caught_step) == (3, 4)
    assert finding.evidence["what"] == what[:-1].replace("weight", "parameter")


def test_the_exponent_bit_of_one_weight_is_named() -> None:
    def act(step: int, model: Any, optimizer: torch.optim.Optimizer, g: Any) -> None:
        if step == 2:
            flip(model.head.weight, 37, 27)

    finding = next(f for f in train(act).findings if f.kind == "corruption")
    assert finding.module == "head"
    assert finding.evidence["bit"] == 27
    low, high = finding.evidence["elements"]
    assert low <= 37 <= high


def test_untouched_training_is_silent() -> None:
    assert kinds(train(lambda *given: None, num_steps=12)) == []
    assert kinds(train(lambda *given: None, num_steps=12, model=Net())) == []


def clamp(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.05, 0.05)


def swap_average(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data * 0.9)


def switch_schedule_free(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
    """Move parameters between two interpolations in place, as its ``train()`` and ``eval()`` do."""
    with torch.no_grad():
        for parameter in model.parameters():
            state = optimizer.state[parameter]
            parameter.lerp_(end=state["exp_avg"], weight=0.1)


def load(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})


@pytest.mark.parametrize("act", [clamp, swap_average, switch_schedule_free, load])
def test_what_a_program_writes_is_a_notice(act: Act) -> None:
    guard = train(lambda step, *given: act(step, *given) if step in (2, 4) else None)
    assert "corruption" not in kinds(guard)
    notices = [f for f in guard.findings if f.kind == "changed_outside_optimizer"]
    assert len(notices) >= 1
    assert {f.severity for f in notices} == {"notice"}


@pytest.mark.parametrize("act", [clamp, swap_average, switch_schedule_free])
def test_expect_write_silences_it(act: Act) -> None:
    def announced(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
        g.expect_write(model.parameters() if step % 2 else None)
        act(step, model, optimizer, g)

    assert kinds(train(announced)) == []


def test_expect_write_covers_what_it_names() -> None:
    def act(step: int, model: Any, optimizer: torch.optim.Optimizer, g: Any) -> None:
        g.expect_write([model.head.bias])
        flip(model.embed.weight, 5, 22) if step == 3 else None

    assert kinds(train(act)) == ["corruption"]


def test_an_average_swapped_in_and_out_again_is_silent() -> None:
    def act(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
        kept = [parameter.detach().clone() for parameter in model.parameters()]
        swap_average(step, model, optimizer, g)
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.data.copy_(value)

    assert kinds(train(act)) == []


def test_a_target_network_is_at_most_a_notice() -> None:
    model = Net()
    model.target = copy.deepcopy(model.blocks).requires_grad_(False)

    def act(step: int, model: Any, optimizer: torch.optim.Optimizer, g: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(model.target.parameters(), model.blocks.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    assert set(kinds(train(act, model=model))) <= {"changed_outside_optimizer"}


def test_offloading_is_silent() -> None:
    def act(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()

    def away(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, g: Any) -> None:
        for state in optimizer.state.values():
            state["exp_avg"] = state["exp_avg"].clone()

    assert kinds(train(act)) == []
    assert kinds(train(away)) == []


def test_a_part_of_the_state_is_summed_in_turn_at_a_small_budget() -> None:
    guard = train(lambda *given: None, num_steps=120, model=Net(num_blocks=4), budget=0.5)
    assert 0.0 < guard.hashed_share <= 1.0
    assert kinds(guard) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("num_elements", [1, 3, 511, 4097])
def test_every_flip_changes_one_sum_by_its_bit(dtype: torch.dtype, num_elements: int) -> None:
    random = np.random.default_rng(num_elements)
    x = torch.randn(num_elements).to(dtype)
    before = bit_sums(x, 0, x.nbytes)
    for _ in range(40):
        element, bit = int(random.integers(num_elements)), int(random.integers(8 * x.element_size() - 1))
        flip(x, element, bit)
        found = single_bit(before, bit_sums(x, 0, x.nbytes))
        assert found is not None
        assert found[0] == element * x.element_size() // 4096
        assert found[1] == (8 * (element * x.element_size() % 8) + bit)
        flip(x, element, bit)
        assert np.array_equal(before, bit_sums(x, 0, x.nbytes))


def test_what_lies_in_pieces_is_not_summed() -> None:
    x = torch.zeros(8, 8)
    assert can_be_summed(x)
    assert can_be_summed(x.t())
    assert not can_be_summed(x[:, :4])
    assert not can_be_summed(torch.zeros(1).expand(8))
    assert not can_be_summed(torch.zeros(0))
