"""``numguard demo``: finds its planted fault, and nothing without it."""

import math
import re
from pathlib import Path

import pytest
import torch

from numguard.cli import main
from numguard.demonstration import Story, Telling, tell
from numguard.demonstration.broken_kernel import FAULT_RATE
from numguard.demonstration.chances import LEAST_BUDGET, MOST_BUDGET, SWEEP_STEPS, budget_for

STEPS = "120"
ENOUGH_STEPS = "240"  # the least with which the demo promises to find its fault


def _line_of(script: Path, text: str) -> set[int]:
    return {number for number, line in enumerate(script.read_text().splitlines(), 1) if text in line}


def test_the_fault_is_found_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["demo", "--steps", ENOUGH_STEPS, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    fields = dict(re.findall(r"^  (\w+(?: \w+)?)  +(.*)$", text, flags=re.M))
    assert "sum" in fields["operation"]
    path, _, line = fields["line"].rpartition(":")
    assert path.endswith("train.py")
    # Backward sums what was broadcast with the same kernel; where only that was caught, the line is one of forward's.
    named = "" if "in backward" in fields["operation"] else "torch.sum("
    assert int(line) in _line_of(out / "train.py", named)
    planted, caught = int(ENOUGH_STEPS) // 2, int(fields["first caught"].removeprefix("step "))
    assert planted <= caught < int(ENOUGH_STEPS)
    assert (out / "report.html").stat().st_size > 0
    assert "train.py" in (out / "report.html").read_text()
    assert torch.sum(torch.arange(100.0)).item() == 4950.0


def test_nothing_is_found_without_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--fault", "none", "--steps", STEPS, "--out", str(tmp_path)]) == 0
    assert "numguard found nothing." in capsys.readouterr().out


def test_the_curves_look_the_same(tmp_path: Path) -> None:
    phases: list[str] = []
    story = tell(Telling(folder=tmp_path, num_steps=int(STEPS), seed=1), phases.append)
    half = int(STEPS) // 2
    assert story.losses[:half] == story.healthy_losses[:half]
    assert phases == ["healthy"] * half + ["faulty"] * half + ["again"] * half
    tail, healthy = story.losses[-20:], story.healthy_losses[-20:]
    spread = math.sqrt(sum((x - sum(healthy) / 20) ** 2 for x in healthy) / 19)
    assert abs(sum(tail) / 20 - sum(healthy) / 20) < spread, "the fault is smaller than the noise of one step"


def test_a_fault_that_is_not_found_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = Story(losses=(1.0,), healthy_losses=(1.0,), findings=(), num_checks=0, share_spent=0.0)
    monkeypatch.setattr("numguard.cli.demo.tell", lambda telling, advance: blind)
    monkeypatch.setattr("numguard.cli.demo.write_html", lambda folder: folder / "report.html")
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "did not find the fault" in capsys.readouterr().out


def test_it_trains_with_one_thread_and_gives_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def interrupted(telling: Telling, advance: object) -> Story:
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    monkeypatch.setattr("numguard.cli.demo.tell", interrupted)
    torch.set_num_threads(2)
    try:
        assert main(["demo", "--steps", "2", "--out", str(tmp_path)]) == 130
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not empty; give another folder" in capsys.readouterr().err


def test_a_new_folder_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []
    blind = Story(losses=(1.0,), healthy_losses=(1.0,), findings=(), num_checks=0, share_spent=0.0)

    def note(telling: Telling, advance: object) -> Story:
        seen.append(telling.folder)
        return blind

    monkeypatch.setattr("numguard.cli.demo.tell", note)
    monkeypatch.setattr("numguard.cli.demo.write_html", lambda folder: folder / "report.html")
    for _ in range(3):
        main(["demo", "--quick"])
    assert [path.name for path in seen] == ["numguard-demo", "numguard-demo-2", "numguard-demo-3"]


@pytest.mark.parametrize("num_steps", [10, 300, 1200, 100_000])
def test_budget_follows_its_formula(num_steps: int) -> None:
    budget = budget_for(num_steps)
    assert LEAST_BUDGET <= budget <= MOST_BUDGET
    num_checks = budget * num_steps / SWEEP_STEPS
    missed = (1 - FAULT_RATE) ** (17 * num_checks)
    assert budget == MOST_BUDGET or missed <= 1e-3 * (1 + 1e-9)
