"""``numguard audit`` and ``numguard replay`` as a user types them."""

import json
from pathlib import Path

import pytest
import torch

from numguard.cli import main
from numguard.records.capsule import write_capsule
from numguard.shadow.call import OpCall, bind
from numguard.shadow.replay import capsule_of


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "--family", "nothing"], "there are"),
        (["audit", "--device", "moon"], "device='cpu'"),
        (["audit", "--part", "half"], "eager"),
        (["audit", "--baseline", "none.toml"], "none.toml"),
        (["audit", "none.json"], "none.json"),
        (["replay", "none.safetensors"], "no such file"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "Traceback" not in error


def test_reports_of_hosts_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in "ab":
        report = {"schema": 1, "torch": "2.13.0", "device": "cpu", "level": "quick", "host": host, "findings": []}
        (tmp_path / f"{host}.json").write_text(json.dumps(report))
    words = ["audit", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["host"] == "2 hosts"


def test_one_family_is_examined_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "--family", "exponentials", "--json", "--out", str(tmp_path / "out")]
    words += ["--write-baseline", str(tmp_path / "known.toml")]
    code = main(words)
    report = json.loads(capsys.readouterr().out)
    assert code == int(bool(report["findings"]))
    assert report["num_trials"] > 0
    assert "aten::_softmax" in report["operators_judged"]
    assert (tmp_path / "out" / "report.html").exists()
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]


def _capsule(tmp_path: Path, op: str = "aten::sum.dim_IntList") -> Path:
    overload = torch.ops.aten.sum.dim_IntList
    call = OpCall(overload=overload, arguments=bind(overload, (torch.randn(5, 7).t(), [0]), {}))
    capsule = capsule_of(call, {"kind": "wrong_result"})
    path = tmp_path / "call.safetensors"
    write_capsule(path, type(capsule)(content={**capsule.content, "op": op}, tensors=capsule.tensors))
    return path


def test_a_right_call_replays_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(_capsule(tmp_path))]) == 0
    assert "does not come back" in capsys.readouterr().out


def test_a_call_is_replayed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(_capsule(tmp_path)), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["op"], said["ok"], said["findings"]) == ("aten::sum.dim_IntList", True, [])
    assert said["forward_error"] <= said["error_bound"]


@pytest.mark.parametrize("op", ["aten::set_", "os::system", "aten::mm", "\x1b[2J"])
def test_a_hostile_capsule_is_refused_in_one_line(tmp_path: Path, op: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(_capsule(tmp_path, op))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error
