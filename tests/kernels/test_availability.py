"""Where a kernel cannot run, it says why and what to do; importing the package needs neither Triton nor a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numguard_kernels import KernelUnavailable, availability, unavailable_because

KERNELS = Path(__file__).parents[2] / "kernels"


def test_importing_loads_no_triton() -> None:
    program = (
        "import sys, torch; before = 'triton' in sys.modules; import numguard_kernels; "
        "print(before or 'triton' not in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(KERNELS)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


def test_a_tensor_on_the_cpu_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(availability, "_has_triton", lambda: True)
    assert "on the cpu" in (unavailable_because(torch.device("cpu")) or "")
    assert "mps" in (unavailable_because(torch.device("mps")) or "")
    with pytest.raises(KernelUnavailable, match=r"tensor_statistics cannot run: .* TRITON_INTERPRET=1"):
        availability.require("tensor_statistics", torch.device("cpu"))


def test_without_triton_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_has_triton", lambda: False)
    assert "pip install triton" in (unavailable_because(torch.device("cuda", 0)) or "")


def test_an_old_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    availability._architecture_problem.cache_clear()
    monkeypatch.setattr(availability, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    assert "Tesla V100 has 7.0" in (unavailable_because(torch.device("cuda", 0)) or "")
    availability._architecture_problem.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert unavailable_because(torch.device("cuda", 0)) is None
    availability._architecture_problem.cache_clear()


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="cpu, meta"):
        availability.require("replica_checksum", torch.device("cpu"), torch.device("meta"))


def test_kernels_are_launched_from_one_place_only() -> None:
    """Which switches contraction off: a launch elsewhere could forget it."""
    launching = re.compile(r"\w\[[^\]]*grid[^\]]*\]\(|enable_fp_fusion")
    places = [
        path.name
        for path in (KERNELS / "numguard_kernels").glob("*.py")
        if any(launching.search(line) for line in path.read_text(encoding="utf-8").splitlines() if "``" not in line)
    ]
    assert places == ["launching.py"]
