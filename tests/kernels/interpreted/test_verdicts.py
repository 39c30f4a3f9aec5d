"""Verdicts: what they say, and the ring that carries them."""

import pytest
import torch
from numguard_kernels import verdicts
from numguard_kernels.statistics import tensor_statistics
from numguard_kernels.verdict_ring import VerdictRing
from numguard_kernels.verdicts import publish_verdict


def publish(computed: torch.Tensor, x: torch.Tensor, ring: VerdictRing, site: int) -> None:
    first, second = (tensor_statistics(x, dim=-1, precise=precise) for precise in (False, True))
    assert first.sum is not None
    assert first.absolute_sum is not None
    assert second.sum is not None
    publish_verdict(
        computed,
        first.sum,
        second.sum,
        first.absolute_sum * x.shape[-1] * 2.0**-24,
        shadow_error=first.absolute_sum * first.relative_error,
        second_error=first.absolute_sum * second.relative_error,
        ring=ring,
        site=site,
    )


def test_a_ring_keeps_the_newest_and_counts_the_lost() -> None:
    x = torch.randn(3, 50)
    right = x.double().sum(1).float()
    wrong = right + torch.tensor([0.0, 0.5, 0.0])
    ring = VerdictRing(4, x.device)
    publish(right, x, ring, 11)
    publish(wrong, x, ring, 12)
    found, newest, lost = ring.snapshot().since(0)
    assert [(row["site"], row["flags"], row["worst_index"]) for row in found][1] == (12, verdicts.WRONG.value, 1)
    assert (found[0]["flags"], newest, lost) == (0, 2, 0)
    for site in range(6):
        publish(right, x, ring, site)
    found, newest, lost = ring.snapshot().since(newest)
    assert ([row["site"] for row in found], newest, lost) == ([2, 3, 4, 5], 8, 2)


def test_one_broken_shadow_accuses_nobody() -> None:
    values = torch.ones(4, dtype=torch.float64)
    error = values * 1e-12
    broken = values.clone()
    broken[2] = 1.5
    found = publish_verdict(values.float(), broken, values, error, shadow_error=error, second_error=error).numbers
    assert int(found[1]) == verdicts.SUSPECTED.value | verdicts.SHADOWS_DISAGREE.value
    assert found[3] == 0


def test_sizes_that_differ_are_refused() -> None:
    x = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\[3, 4"):
        publish_verdict(x[:3], x, x, x, shadow_error=x, second_error=x)
    with pytest.raises(ValueError, match="at least 1"):
        VerdictRing(0, x.device)
