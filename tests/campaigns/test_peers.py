"""The contest counts misses and false alarms of everybody by the same rule."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.campaigns.extended_values import UNIT_ROUNDOFF
from benchmarks.campaigns.injection_plan import sample
from benchmarks.campaigns.peers import NUMGUARD, PEERS, Contest, alarms_by_defaults, alarms_by_float64, contest
from benchmarks.campaigns.peers_page import page

DEFAULTS, FLOAT64 = PEERS


@pytest.fixture(autouse=True)
def _one_quiet_thread() -> Iterator[None]:
    before, logger = torch.get_num_threads(), logging.getLogger("numguard")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.CRITICAL)
    yield
    torch.set_num_threads(before)
    logger.setLevel(level)


@pytest.mark.skipif(UNIT_ROUNDOFF > 2.0**-63, reason="numpy.longdouble is no wider than float64 here")
def test_numguard_neither_misses_nor_cries_where_peers_do() -> None:
    contests = [result for case in sample(24) if (result := contest(case)) is not None and result.certain]
    faults = [result for result in contests if result.ratio > 1.0]
    assert len(faults) > 12
    assert all(NUMGUARD in fault.on_wrong for fault in faults)
    assert not any(NUMGUARD in result.on_right for result in contests)
    for peer in PEERS:
        assert any(peer not in fault.on_wrong for fault in faults), f"{peer} found every fault"


def test_peers_alarm_outside_their_tolerances_only() -> None:
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    close, far = exact.float() * (1 + 5e-4), exact.float() * (1 + 2e-3)
    assert not alarms_by_float64(close, exact)
    assert alarms_by_float64(far, exact)
    assert alarms_by_defaults(close, exact)  # 1.3e-6 in float32
    assert not alarms_by_defaults(exact.float(), exact)
    assert not alarms_by_defaults(far.bfloat16(), exact)  # 1.6e-2 in bfloat16
    assert alarms_by_defaults(torch.tensor([1.0, torch.nan]), exact)
    assert alarms_by_float64(torch.tensor([1.0, torch.nan]), exact)


FOUND = Contest(
    name="a",
    dtype="float32",
    ratio=5.0,
    certain=True,
    on_right=frozenset({FLOAT64}),
    on_wrong=frozenset({NUMGUARD, FLOAT64}),
)


def test_the_page_counts_misses_and_false_alarms() -> None:
    below = replace(FOUND, ratio=0.5, on_right=frozenset(), on_wrong=frozenset({DEFAULTS}))
    between = replace(FOUND, ratio=1.5, certain=False, on_right=frozenset())
    text = page([FOUND, FOUND, below, between], (NUMGUARD, *PEERS), seconds=1.0)
    assert "misses of 2 faults | false alarms on 4 right results | false alarms on 1 faults below B |" in text
    assert "| numguard | **0** | **0** | **0** |" in text
    assert f"| {DEFAULTS} | **2** | **0** | **1** |" in text
    assert f"| {FLOAT64} | **0** | **2** | **0** |" in text
    assert "| 2 B to 10 B | 2 | 0 | 2 | 0 |" in text
    assert "1 faults between B and 2 B" in text
