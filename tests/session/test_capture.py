"""``capture="capsule"`` keeps the inputs of a finding, and they can be replayed."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import numguard
from numguard.cli import main


def _stagnating_step(weight: torch.nn.Parameter) -> torch.Tensor:
    loss = F.embedding(torch.zeros(600, dtype=torch.int64), weight).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def test_the_inputs_of_a_finding_are_kept_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    with numguard.guard(run_dir=tmp_path, budget=None, capture="capsule") as g:
        g.step(_stagnating_step(weight))
    kept = [finding for finding in g.findings if finding.op == "aten::embedding_dense_backward"]
    assert len(kept) == 1
    assert kept[0].capsule is not None
    capsule = tmp_path / kept[0].capsule
    assert capsule.stat().st_mode & 0o077 == 0
    assert main(["replay", str(capsule)]) == 1
    assert "aten::embedding_dense_backward" in capsys.readouterr().out


def test_a_summary_keeps_no_tensor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "numguard")
    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    with numguard.guard(run_dir=tmp_path, budget=None) as g:
        g.step(_stagnating_step(weight))
    assert g.findings
    assert all(finding.capsule is None for finding in g.findings)
    assert not list(tmp_path.rglob("*.safetensors"))
