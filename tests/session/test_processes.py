"""Forked and spawned processes: the parent's watch goes on, a child is let go of and writes nothing."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader, Dataset

import numguard

MODEL = nn.Linear(4, 4)


class Items(Dataset[Tensor]):
    """Items that say whether a mode was entered in the worker that made them."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        free = _get_current_dispatch_mode() is None
        return torch.full((4,), float(free)) + 0.0 * torch.ones(3).sum()


@pytest.mark.parametrize("way", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_a_data_loader_are_free_of_the_mode(way: str, tmp_path: Path) -> None:
    loader = DataLoader(Items(), batch_size=2, num_workers=2, multiprocessing_context=way)
    model = nn.Linear(4, 4)
    with numguard.guard(model, run_dir=tmp_path, budget=None) as guard:
        for batch in loader:
            assert bool((batch == 1.0).all())
            loss = model(batch).sum()
            loss.backward()
            guard.step(loss)
    assert guard.coverage.num_steps == 6
    assert guard.coverage.num_checks > 0
    assert guard.findings == ()
    assert len(list((tmp_path / "events").iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_may_leave_the_block_and_start_a_guard_of_its_own(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with numguard.guard(MODEL, run_dir=tmp_path, budget=None) as guard:
        guard.step(MODEL(torch.ones(1, 4)).sum())
        child = os.fork()
        if child == 0:  # pragma: no cover
            answer = b"no"
            try:
                guard.stop()
                with numguard.guard(nn.Linear(2, 2), budget=None) as own:
                    own.step(torch.ones(3).sum())
                if own.coverage.num_checks == 1 and _get_current_dispatch_mode() is None:
                    answer = b"ok"
            finally:
                os.write(writer, answer)
                os._exit(0)
        os.waitpid(child, 0)
        guard.step(MODEL(torch.ones(1, 4)).sum())
    assert os.read(reader, 2) == b"ok"
    os.close(reader)
    os.close(writer)
    assert guard.coverage.num_steps == 2
    assert guard.findings == ()
    assert len(list((tmp_path / "events").iterdir())) == 1


def _work(answers: Any) -> None:
    with numguard.guard(budget=None) as guard:
        guard.step(torch.ones(3).sum())
    answers.put(guard.coverage.num_checks)


def test_a_spawned_process_has_a_guard_of_its_own() -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with numguard.guard(budget=None) as guard:
        process = context.Process(target=_work, args=(answers,))
        process.start()
        assert answers.get(timeout=120) == 1
        process.join()
        guard.step(torch.ones(3).sum())
    assert guard.coverage.num_checks == 1
