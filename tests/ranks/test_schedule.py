"""Which steps are armed: the same on every rank, evenly spread, and no more than the budget pays for."""

from datetime import timedelta

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from numguard.ranks import Schedule, agreement_for, interval_for, is_armed
from numguard.ranks.agreement import IMPATIENCE, PATIENCE, AloneAgreement, StoreAgreement
from numguard.ranks.schedule import EPOCH, INTERVALS, SPARE

SEEDS = st.integers(min_value=-(2**70), max_value=2**70)


def test_intervals_divide_the_window() -> None:
    assert all(EPOCH % interval == 0 for interval in INTERVALS)
    assert list(INTERVALS) == sorted(set(INTERVALS))


@given(seed=SEEDS, first=st.integers(min_value=0, max_value=10**9), interval=st.sampled_from(INTERVALS))
def test_every_window_holds_the_same_number_of_armed_steps(seed: int, first: int, interval: int) -> None:
    assert sum(is_armed(step, seed, interval) for step in range(first, first + EPOCH)) == EPOCH // interval


@given(seed=SEEDS, step=st.integers(min_value=0, max_value=10**9), interval=st.sampled_from((0, *INTERVALS)))
def test_equal_seeds_arm_equal_steps(seed: int, step: int, interval: int) -> None:
    ranks = [Schedule(seed=seed, interval=interval) for _ in range(3)]
    assert len({rank.armed(step) for rank in ranks}) == 1
    assert not Schedule(seed=seed, interval=0).armed(step)


def test_seeds_shift_the_phase() -> None:
    phases = {next(step for step in range(200) if is_armed(step, seed, 200)) for seed in range(100)}
    assert len(phases) > 50


@given(
    share=st.floats(min_value=1e-4, max_value=1.0),
    step_seconds=st.floats(min_value=1e-5, max_value=1e3),
    resting_seconds=st.floats(min_value=0.0, max_value=1e-3),
    arming_seconds=st.floats(min_value=1e-6, max_value=10.0),
)
def test_an_interval_is_one_that_the_budget_pays_for(
    share: float, step_seconds: float, resting_seconds: float, arming_seconds: float
) -> None:
    interval = interval_for(share, step_seconds, resting_seconds, arming_seconds)
    assert interval == 0 or interval in INTERVALS
    earned = SPARE * share * step_seconds - resting_seconds
    if interval:
        assert interval * earned >= arming_seconds
    else:
        assert earned <= 0.0 or EPOCH * earned < 2.0 * arming_seconds


@given(
    earned=st.floats(min_value=1e-5, max_value=1.0),
    arming_seconds=st.floats(min_value=1e-4, max_value=0.5),
    checking_seconds=st.floats(min_value=1e-4, max_value=10.0),
)
def test_an_interval_buys_nearly_as_many_checks_as_the_best(
    earned: float, arming_seconds: float, checking_seconds: float
) -> None:
    interval = interval_for(0.01, earned / (0.01 * SPARE), 0.0, arming_seconds, checking_seconds)

    def bought(every: int) -> float:
        return min(every * earned - arming_seconds, checking_seconds) / every

    if EPOCH * earned >= 3.0 * arming_seconds * (1.0 + 1e-9):
        best = max(map(bought, INTERVALS))
        assert bought(interval) >= 0.9 * best * (1.0 - 1e-9)
        assert all(bought(shorter) < 0.9 * best * (1.0 + 1e-9) for shorter in INTERVALS if shorter < interval)


@given(st.floats(min_value=1e-4, max_value=0.5), st.floats(min_value=1e-4, max_value=10.0))
def test_a_larger_budget_never_arms_less_often(share: float, step_seconds: float) -> None:
    often, rarely = (interval_for(s, step_seconds, 2e-5, 5e-3) for s in (2.0 * share, share))
    assert rarely == 0 or 0 < often <= rarely


class Store:
    """A store in memory in which waiting for a missing key fails at once."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.patience: list[timedelta] = []

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def wait(self, keys: list[str], patience: timedelta) -> None:
        self.patience.append(patience)
        if not self.check(keys):
            raise RuntimeError("wait timeout")


@pytest.mark.parametrize(
    ("wishes", "agreed"), [((4, 10, 5), 10), ((4, 4, 4), 4), ((4, 0, 5), 0), ((None, 10, 5), 10), ((4, None, None), 4)]
)
def test_ranks_agree_on_the_slowest_wish(wishes: tuple[int | None, ...], agreed: int) -> None:
    store = Store()
    ranks = [StoreAgreement(store, rank, len(wishes), "7") for rank in range(len(wishes))]
    for rank, wish in zip(ranks, wishes, strict=True):
        if wish is not None:
            rank.wish("10", wish)
    for rank in ranks:
        rank.publish("10")
    assert {rank.agreed("10") for rank in ranks} == {agreed}


def test_a_rank_that_finds_nothing_says_so_and_waits_less_from_then_on() -> None:
    store = Store()
    rank = StoreAgreement(store, 1, 2, "7")
    assert [rank.agreed("10"), rank.agreed("200")] == [None, None]
    assert store.patience == [PATIENCE, IMPATIENCE]


def test_rounds_and_guards_do_not_mix() -> None:
    store = Store()
    first, second = StoreAgreement(store, 0, 1, "7"), StoreAgreement(store, 0, 1, "8")
    first.wish("10", 4)
    first.publish("10")
    assert (first.agreed("10"), first.agreed("200"), second.agreed("10")) == (4, None, None)


def test_a_process_that_outlives_its_group_agrees_with_ranks_that_start_afresh() -> None:
    for _ in range(2):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            agreement_for(0, 2, "7")  # an earlier guard of rank 0 and of rank 1
            agreement_for(1, 2, "7")
            ranks = [agreement_for(rank, 2, "7") for rank in range(2)]
        finally:
            dist.destroy_process_group()
        for rank, wish in zip(ranks, (4, 10), strict=True):
            rank.wish("10", wish)
        ranks[0].publish("10")
        assert [rank.agreed("10") for rank in ranks] == [10, 10]


def test_a_process_alone_agrees_with_itself_once() -> None:
    alone = AloneAgreement()
    alone.wish("10", 4)
    alone.publish("10")
    assert (alone.agreed("10"), alone.agreed("10")) == (4, None)
