"""Marked blocks behave as unmarked ones: copied, pickled, traced, compiled, wrapped, hooked, and called by anybody."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from numguard.interception.boundaries import MAX_MARKS, Boundaries, affordable_marks, blocks_of


class Chain(nn.Module):
    """Blocks in a list, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def marked(model: nn.Module, **options: Any) -> tuple[Boundaries, list[BaseException]]:
    faults: list[BaseException] = []
    quiet: list[bool] = []
    return Boundaries(model, lambda _: None, quiet.append, lambda _, error: faults.append(error), **options), faults


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_blocks_are_found_through_lists_and_wrappers() -> None:
    model = Chain()
    names = ["layers.0", "layers.1", "layers.2", "head"]
    assert [name for name, _ in blocks_of(model)] == names
    wrapper = nn.Module()
    wrapper.module = model
    assert [name for name, _ in blocks_of(wrapper)] == names
    assert [name for name, _ in blocks_of(torch.compile(model))] == names
    outer = nn.ModuleDict({"model": model})
    assert next(name for name, _ in blocks_of(outer)) == "model.layers.0"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_model_of_its_own(copied: Any) -> None:
    model = Chain()
    marks, _ = marked(model)
    twin = copied(model)
    assert all(module._compiled_call_impl is None for module in twin.modules())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert bool((twin(torch.ones(1, 4)) == 0.0).all())
    assert not bool((model(torch.ones(1, 4)) == 0.0).all())
    marks.remove()
    assert all(module._compiled_call_impl is None for module in model.modules())


class Keeping(nn.Linear):
    """A module that copies itself in its own way, all attributes included."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


def test_a_module_that_copies_itself_is_left_alone() -> None:
    model = nn.Sequential(Keeping(4, 4), nn.Linear(4, 4))
    marks, _ = marked(model)
    assert model[0]._compiled_call_impl is None
    assert model[1]._compiled_call_impl is not None
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
        twin[0].bias.zero_()
    assert bool((twin[0](torch.ones(1, 4)) == 0.0).all())
    marks.remove()


def test_a_replicated_model_is_left_alone() -> None:
    model = nn.DataParallel(Chain())
    marks, _ = marked(model)
    assert marks.blocks == []


def test_hooks_run_as_often_as_before() -> None:
    def calls(watched: bool) -> list[str]:
        torch.manual_seed(0)
        model, seen = Chain(), []
        model.layers[1].register_forward_pre_hook(lambda *_: seen.append("before"))
        model.layers[1].register_forward_hook(lambda *_: seen.append("after"))
        model.layers[1].register_full_backward_hook(lambda *_: seen.append("backward"))
        marks = marked(model)[0] if watched else None
        model(torch.ones(1, 4)).sum().backward()
        if marks is not None:
            marks.remove()
        return seen

    assert calls(True) == calls(False) == ["before", "after", "backward"]


def test_marks_are_let_go_with_the_next_step_and_evaluations_make_none() -> None:
    model = Chain()
    marks, faults = marked(model)
    for _ in range(5):
        model(torch.ones(1, 4)).sum().backward()
        marks.end_step()
        assert len(marks._marks) == 4
    model.eval()
    with torch.no_grad():
        for _ in range(50):
            model(torch.ones(1, 4))
    assert len(marks._marks) == 4
    model.train()
    marks.enabled = False
    model(torch.ones(1, 4))
    assert len(marks._marks) == 4
    assert faults == []


def test_a_step_without_end_keeps_its_first_marks() -> None:
    model = nn.Sequential(nn.Identity())
    marks, _ = marked(model)
    x = torch.ones(1)
    for _ in range(MAX_MARKS + 10):
        model(x)
    assert len(marks._marks) == MAX_MARKS


def test_a_fault_in_a_mark_is_told_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ArithmeticError

    model = Chain()
    marks, faults = marked(model, keeps=False)
    monkeypatch.setattr(marks, "_quietly", refuse)
    model(torch.ones(1, 4)).sum().backward()
    assert len(faults) == 4
    monkeypatch.undo()
    loss = model(torch.ones(1, 4)).sum()
    monkeypatch.setattr(marks, "_quietly", refuse)
    loss.backward()
    assert len(faults) == 8


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("place", range(3))
def test_the_first_block_is_named_forward_and_backward(keeps: bool, place: int) -> None:
    model = Chain()
    marks, faults = marked(model, keeps=keeps)
    handle = model.layers[place].register_forward_hook(lambda module, args, output: output * torch.nan)
    model(torch.ones(1, 4))
    found = marks.forward_origin()
    assert found is not None
    assert (found.block, found.phase, found.exact) == (f"layers.{place}", "forward", True)
    marks.end_step()
    handle.remove()
    model.layers[place].register_full_backward_hook(lambda module, grads, _: tuple(g * torch.nan for g in grads))
    model(torch.ones(1, 4, requires_grad=True)).sum().backward()
    assert marks.forward_origin() is None
    marks.end_step()
    found = marks.gradient_origin(earlier=False)
    if place == 0:
        assert found is None  # it went into the data
    else:
        assert found is not None
        assert (found.block, found.phase) == (f"layers.{place}", "backward")
    assert faults == []


def test_a_block_that_is_compiled_by_itself_stays_so() -> None:
    model = Chain()
    model.layers[0].compile(backend="eager")
    its_own = model.layers[0]._compiled_call_impl
    marks, _ = marked(model)
    assert model.layers[0]._compiled_call_impl is its_own
    model.layers[1].compile(backend="eager")
    theirs = model.layers[1]._compiled_call_impl
    marks.remove()
    assert model.layers[0]._compiled_call_impl is its_own
    assert model.layers[1]._compiled_call_impl is theirs


def test_fewer_blocks_are_watched_where_steps_are_short() -> None:
    model = Chain()
    marks, _ = marked(model)
    marks.thin_out(2)
    assert [marks.names[place] for place in marks.watched] == ["layers.1", "head"]
    marks.thin_out(1)
    assert [marks.names[place] for place in marks.watched] == ["head"]
    assert affordable_marks(0.01, 1.0, 8) == (8, 55)
    assert affordable_marks(0.01, 0.01, 8) == (6, 0)
    assert affordable_marks(0.01, 0.001, 8) == (0, 0)
