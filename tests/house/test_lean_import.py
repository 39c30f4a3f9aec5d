"""``import numguard`` is cheap: nothing optional is loaded and no accelerator is touched."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OPTIONAL = ("cyclopts", "jinja2", "numguard_kernels", "plotly", "rich", "scipy", "transformers", "triton")

# torch itself may load some of them: what counts is what numguard adds.
_PROGRAM = """
import json, sys
import torch
before = set(sys.modules)
{statement}
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps({{"added": sorted(added), "cuda": torch.cuda.is_initialized()}}))
"""


def _what_it_adds(statement: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_import_is_lean() -> None:
    result = _what_it_adds("import numguard; numguard.guard")
    assert not set(OPTIONAL).intersection(result["added"])
    assert result["cuda"] is False


@pytest.mark.parametrize("name", ["rich", "scipy"])
def test_a_fat_import_would_be_noticed(name: str) -> None:
    assert name in _what_it_adds(f"import {name}.{'text' if name == 'rich' else 'special'}")["added"]


def test_the_version_needs_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; from numguard.cli import main; sys.exit(main(['--version']))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
