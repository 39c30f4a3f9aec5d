"""One environment variable forces every choice; a wrong value and a missing compiler are said in words."""

import logging
from pathlib import Path

import pytest
import torch
from numguard_kernels.native import Readiness

from numguard import guard
from numguard.backends import selection
from numguard.backends.selection import backend_for, native_library, parsed, prepare
from numguard.errors import UsageError
from numguard.shadow.routes import routes_for


def test_all_or_by_capability() -> None:
    assert not parsed("")
    assert not parsed("auto")
    assert set(parsed("native").values()) == {"native"}
    assert dict(parsed("statistics=torch, dot=native")) == {"statistics": "torch", "dot": "native"}
    assert parsed("torch,dot=native")["dot"] == "native"


@pytest.mark.parametrize("text", ["fast", "dot=", "sums=native", "native;torch", "dot=cuda"])
def test_wrong_values_are_mistakes_of_the_user(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="names no backend; write one of triton, native, torch"):
        parsed(text)
    monkeypatch.setenv("NUMGUARD_BACKEND", text)
    with pytest.raises(UsageError), guard(torch.nn.Linear(2, 2)):
        raise AssertionError("the guard has started")


def test_torch_keeps_the_twin_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD_BACKEND", "torch")
    assert native_library("statistics") is None
    assert [route.name for route in routes_for("sums", "cpu")] == ["numpy", "pairwise"]
    assert backend_for("dot", torch.device("cpu")) == "torch"


@pytest.mark.usefixtures("_twin")
def test_native_is_one_more_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD_BACKEND", "native")
    first, second = routes_for("sums", "cpu")
    assert (first.name, second.name) == ("native", "pairwise")
    assert first.families == second.families == frozenset()
    monkeypatch.setenv("NUMGUARD_BACKEND", "statistics=native,dot=torch")
    assert native_library("dot") is None
    assert native_library("statistics") is not None


def test_native_for_an_accelerator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD_BACKEND", "native")
    with pytest.raises(UsageError, match="reads host memory"):
        backend_for("dot", torch.device("cuda"))


def _without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    readiness = Readiness()
    monkeypatch.setattr(selection, "_twin", lambda: readiness)
    monkeypatch.setattr(selection._Engaged, "library", None)
    monkeypatch.setattr(selection._Engaged, "said", False)


def test_without_a_compiler_the_guard_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _without_compiler(tmp_path, monkeypatch)
    monkeypatch.setenv("NUMGUARD_BACKEND", "auto")
    with caplog.at_level(logging.WARNING, logger="numguard"):
        for _ in range(2):
            with guard(torch.nn.Linear(2, 2), budget=None) as watching:
                watching.step(torch.zeros(4, 4).sum())
    said = [record.getMessage() for record in caplog.records if "native kernels are missing" in record.getMessage()]
    assert len(said) == 1
    assert "no C++ compiler was found" in said[0]
    assert routes_for("sums", "cpu")[0].name == "numpy"


def test_forced_native_without_a_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_compiler(tmp_path, monkeypatch)
    monkeypatch.setenv("NUMGUARD_BACKEND", "native")
    with pytest.raises(UsageError, match="asks for the native backend, which is missing"):
        prepare()
