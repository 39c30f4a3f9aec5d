"""Who this process is, from the launcher's environment where no process group is up."""

import pytest

from numguard.ranks import this_rank


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)), ({"RANK": "-1", "WORLD_SIZE": "many"}, (0, 1))],
)
def test_rank_and_world_size(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rank = this_rank()
    assert (rank.rank, rank.world_size) == expected
    assert rank.host
    assert (rank.device, rank.device_uuid) == ("cpu", "")
