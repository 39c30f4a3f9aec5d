"""The twin, compiled once for all tests of it; they are skipped where there is no compiler."""

import ctypes
from collections.abc import Iterator

import pytest
from numguard_kernels.native import TWIN
from numguard_kernels.native.library import VARIANTS


@pytest.fixture(scope="session")
def twin() -> ctypes.CDLL:
    if TWIN.wait() != "ready":
        pytest.skip(TWIN.reason)
    library = TWIN.library()
    assert library is not None
    return library


@pytest.fixture(params=range(len(VARIANTS)), ids=VARIANTS)
def library(request: pytest.FixtureRequest, twin: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """The twin with one instruction set after the other."""
    if not twin.ng_select(request.param):
        pytest.skip("this machine does not have the instructions")
    yield twin
    twin.ng_select(-1)
