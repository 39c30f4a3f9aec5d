import pytest
from numguard_kernels.native import TWIN


@pytest.fixture
def _twin() -> None:
    """The native twin is there; skips where there is no compiler."""
    if TWIN.wait() != "ready":
        pytest.skip(TWIN.reason)
