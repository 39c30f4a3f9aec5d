"""The replica hash sees every bit, and does not depend on how the launch was cut."""

import pytest
import torch
from numguard_kernels.checksum import replica_checksum


def hash_of(x: torch.Tensor) -> int:
    return int(replica_checksum([x]).hashes.item())


@pytest.mark.parametrize("bit", range(32))
def test_every_bit_counts(bit: int) -> None:
    words = torch.arange(40, dtype=torch.int32)
    changed = words.clone()
    changed[17] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int64).int()
    assert hash_of(words) != hash_of(changed)


def test_two_changed_signs_do_not_cancel() -> None:
    """As they do in every hash of odd weights modulo 2**32, whose uppermost bit is a parity."""
    x = torch.ones(3000)
    found = {hash_of(x)}
    for index in (1, 1023, 1024, 2999):
        changed = x.clone()
        changed[[0, index]] *= -1.0
        found.add(hash_of(changed))
    assert len(found) == 5


def test_places_count() -> None:
    x = torch.randn(2100)
    for first, second in ((0, 1), (5, 1029), (0, 2099)):
        swapped = x.clone()
        swapped[[first, second]] = x[[second, first]]
        assert hash_of(x) != hash_of(swapped)


def test_zeros_of_both_signs_and_payloads_of_nan_differ() -> None:
    assert hash_of(torch.zeros(5)) != hash_of(-torch.zeros(5))
    quiet = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert hash_of(quiet[:1]) != hash_of(quiet[1:])


def test_a_list_gives_what_its_tensors_give() -> None:
    tensors = [torch.randn(n) for n in (1, 5, 4099, 0, 17)]
    assert replica_checksum(tensors).hashes.tolist() == [hash_of(x) for x in tensors]
    assert replica_checksum([]).hashes.shape == (0,)
