"""The kernels' own tests in Triton's emulation, which must be chosen before Triton is imported: one process a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (Path(__file__).parent / "interpreted").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_the_emulated_kernels_pass(file: str) -> None:
    path = f"tests/kernels/interpreted/{file}"
    # NumPy computes what the hardware would, and warns of NaN and overflow that are wanted there.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", path]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "kernels"), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert passed
    assert int(passed[1]) > 2
