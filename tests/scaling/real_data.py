"""Where the public data sets are that some tests measure on; they are no part of the repository."""

from pathlib import Path

import pytest


def real_data(*parts: str) -> Path:
    """Return a file of the data folder beside the repository, or skip the test with the reason."""
    path = Path(__file__).parents[3].joinpath("shared", "data", *parts)
    if not path.exists():
        pytest.skip(f"the data set {'/'.join(parts)} is not beside the repository (looked in ../shared/data)")
    return path
