"""With the demo's budget 999 of 1,000 seeds find its fault: a stream of sites through the real sampler and schedule."""

import random

import pytest
import torch

from numguard.demonstration.broken_kernel import FAULT_RATE
from numguard.demonstration.chances import SWEEP_STEPS, budget_for
from numguard.interception.attribution import Origin
from numguard.interception.budget import Budget
from numguard.interception.sampling import Sampler
from numguard.interception.sites import SiteTable
from numguard.ranks.schedule import SPARE, interval_for, is_armed

NUM_SITES = 130
STEP_SECONDS = 0.012
ARMING_SECONDS = 0.0055
RESTING_SECONDS = 70e-6
NUM_SEEDS = 1000
SLOTS = {0: 1, 1: 16}  # the summed loss, and one sum for each of sixteen sequences


def _sites(rng: random.Random) -> SiteTable:
    """Sites whose checks cost four fifths of what the demo's formula takes a sweep for; arming costs the rest."""
    table = SiteTable()
    sweep = 0.8 * SWEEP_STEPS * STEP_SECONDS
    weights = [rng.uniform(0.5, 1.5) for _ in range(NUM_SITES)]
    for number, weight in enumerate(weights):
        origin = Origin(phase="forward", module="", location=f"train.py:{number}")
        x = torch.zeros(number + 1)
        site = table.at(torch.ops.aten.sum.default, ("sum",), origin, (x,), {})
        site.num_checked, site.calls_per_step = 3, 1.0
        site.seconds = sweep * weight / sum(weights)
    assert len(table) == NUM_SITES
    return table


def _is_found(seed: int, num_faulty_steps: int) -> bool:
    rng = random.Random(seed)
    share = budget_for(num_faulty_steps)
    budget, sampler, sites = Budget(share), Sampler(seed), _sites(rng)
    interval = interval_for(share, STEP_SECONDS, RESTING_SECONDS, ARMING_SECONDS)
    watched = dict(enumerate(sites))
    for step in range(2 * num_faulty_steps):
        own = RESTING_SECONDS
        earned = max(0.5 * STEP_SECONDS, SPARE * share * STEP_SECONDS * interval)
        quota = min(budget.allowance(SPARE), earned) - ARMING_SECONDS
        if is_armed(step, seed, interval) and quota > 0.0:
            own += ARMING_SECONDS
            sampler.plan(sites, quota)
            for number, site in watched.items():
                site.calls_in_step += 1
                if not sampler.wants(site):
                    continue
                sampler.charge(site.seconds)
                own += site.seconds
                site.num_checked += 1
                site.last_checked_step = step
                slots = SLOTS.get(number, 0)
                if step >= num_faulty_steps and slots and rng.random() > (1.0 - FAULT_RATE) ** slots:
                    return True
            sites.end_step()
        budget.end_step(STEP_SECONDS + own, own)
    return False


@pytest.mark.parametrize("num_faulty_steps", [172, 600, 1600])
def test_999_of_1000_seeds_find_the_fault(num_faulty_steps: int) -> None:
    missed = sum(not _is_found(seed, num_faulty_steps) for seed in range(NUM_SEEDS))
    # With a probability of 1e-3 each, more than 5 of 1,000 come about once in 1,600 such tests; the seeds are fixed.
    assert missed <= 5, missed


def test_a_rarer_fault_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: a fault of a hundredth of the rate escapes most seeds."""
    monkeypatch.setattr(f"{__name__}.FAULT_RATE", FAULT_RATE / 100)
    assert sum(not _is_found(seed, 600) for seed in range(100)) > 50
