"""Triton decides at its import whether kernels are emulated: these tests run in a process of their own.

``tests/kernels/test_emulation.py`` starts it with ``TRITON_INTERPRET=1``; elsewhere nothing here is collected.
"""

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws is the same every time."""
    torch.manual_seed(0)
