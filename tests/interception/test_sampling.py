"""New sites first, then the oldest; and a fault is met when coverage says it will be."""

import math
import statistics

import numpy as np
import pytest
import torch

from numguard.interception.attribution import Origin
from numguard.interception.sampling import FORGET_EVERY, SURVEY_EVERY, Sampler
from numguard.interception.sites import FIRST_VISITS, Site, SiteTable, place_of
from numguard.session.coverage import Coverage, is_first_covered, site_coverage

SUM = torch.ops.aten.sum.default
COST = 1e-3


def places(table: SiteTable, calls: list[int]) -> list[Site]:
    """Call each place as often as ``calls`` says, without checking anything."""
    sites = []
    for place, number in enumerate(calls):
        origin = Origin(phase="forward", module=f"m{place}", location=None)
        for _ in range(number):
            site = table.at(SUM, ("sum",), origin, (torch.ones(2),), {})
        sites.append(site)
    table.end_step()
    return sites


def armed_step(sampler: Sampler, table: SiteTable, calls: list[int], quota: float, step: int) -> list[tuple[int, int]]:
    """Play one armed step and return the ``(place, call)`` pairs that were checked."""
    sampler.plan(table, quota)
    checked = []
    for place, number in enumerate(calls):
        origin = Origin(phase="forward", module=f"m{place}", location=None)
        for call in range(number):
            site = table.at(SUM, ("sum",), origin, (torch.ones(2),), {})
            if sampler.wants(site):
                sampler.charge(COST)
                site.record(COST, judged=True)
                site.last_checked_step = step
                checked.append((place, call))
    table.end_step()
    return checked


def test_first_visits_come_before_anything_else() -> None:
    sampler, table, calls = Sampler(0), SiteTable(), [1] * 20
    sites = places(table, calls)
    for site in sites[:10]:
        for _ in range(FIRST_VISITS):
            site.record(COST, judged=True)
    # Unknown sites are taken to cost less than these do: ten of them fit.
    checked = armed_step(sampler, table, calls, 10 * COST, 1)
    assert {place for place, _ in checked} <= set(range(10, 20))
    for step in range(2, 2 + 4 * FIRST_VISITS):
        armed_step(sampler, table, calls, 10.5 * COST, step)
    assert is_first_covered(table)


def test_then_half_of_the_sites_are_taken_oldest_first() -> None:
    sampler, table, calls = Sampler(1), SiteTable(), [1] * 12
    for number, site in enumerate(places(table, calls)):
        for _ in range(FIRST_VISITS):
            site.record(COST, judged=True)
        site.last_checked_step = number
    checked = {place for place, _ in armed_step(sampler, table, calls, 3.5 * COST, 20)}
    assert checked == {0, 1, 2}


def test_no_site_starves() -> None:
    sampler, table, calls = Sampler(2), SiteTable(), [1, 3, 1, 7, 1, 1, 20, 1]
    places(table, calls)
    met = [0] * len(calls)
    for step in range(1, 200):
        for place, _ in armed_step(sampler, table, calls, 2.5 * COST, step):
            met[place] += 1
    assert min(met) >= 10


def test_every_call_of_a_site_is_reached() -> None:
    sampler, table, calls = Sampler(3), SiteTable(), [8]
    places(table, calls)
    reached = {call for step in range(300) for _, call in armed_step(sampler, table, calls, 1.5 * COST, step)}
    assert reached == set(range(8))


def test_the_quota_is_kept() -> None:
    sampler, table, calls = Sampler(4), SiteTable(), [1] * 30
    for site in places(table, calls):
        for _ in range(FIRST_VISITS):
            site.record(COST, judged=True)
    for step in range(50):
        assert len(armed_step(sampler, table, calls, 5.5 * COST, step)) <= 5


def test_a_call_that_no_check_can_judge_is_not_waited_for() -> None:
    table = SiteTable()
    (site,) = places(table, [1])
    assert site.is_fresh
    for _ in range(FIRST_VISITS):
        site.record(COST, judged=False)
    assert not site.is_fresh
    assert site.num_checked == 0
    assert is_first_covered(table)


def test_a_plan_depends_on_the_seed_alone() -> None:
    def plan(seed: int) -> list[list[tuple[int, int]]]:
        sampler, table, calls = Sampler(seed), SiteTable(), [1, 5, 2, 9]
        places(table, calls)
        return [armed_step(sampler, table, calls, 2.5 * COST, step) for step in range(30)]

    assert plan(5) == plan(5)
    assert plan(5) != plan(6)


def latencies(rate: float, trials: int, calls: list[int], interval: int) -> tuple[list[int], float, float]:
    """Return the steps to the first checked call that a fault corrupts, and the predicted median and 90 % quantile."""
    found, predictions = [], []
    warm_up = 60
    for trial in range(trials):
        sampler, table = Sampler(trial), SiteTable()
        sites = places(table, calls)
        draw = np.random.default_rng(10_000 + trial)
        place = int(draw.integers(len(calls)))
        for step in range(1, warm_up):
            armed_step(sampler, table, calls, 6.5 * COST, step)
        coverage = Coverage.empty()
        site = site_coverage(sites[place], warm_up * interval)
        predictions.append([coverage.predicted_latency(site, rate, quantile) for quantile in (0.5, 0.9)])
        latency = math.inf
        phase = int(draw.integers(interval))
        for armed in range(int(40 / rate) + 2000):
            checked = armed_step(sampler, table, calls, 6.5 * COST, warm_up + armed)
            if any(where == place and draw.random() < rate for where, _ in checked):
                latency = armed * interval + interval - phase
                break
        found.append(latency)
    median, tail = (statistics.median(row[i] for row in predictions) for i in (0, 1))
    return found, median, tail


@pytest.mark.parametrize(
    ("rate", "trials"),
    [
        (1.0, 200),
        (0.1, 200),
        pytest.param(0.01, 200, marks=pytest.mark.slow),
        pytest.param(0.001, 200, marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_met_when_coverage_says_so(rate: float, trials: int) -> None:
    calls = [1, 1, 4, 1, 2, 1, 1, 12, 1, 1, 1, 3]
    found, median, tail = latencies(rate, trials, calls, interval=10)
    # The share of trials within a quantile is binomial: four standard deviations of it, beside half a visit's wait.
    for quantile, predicted in ((0.5, median), (0.9, tail)):
        within = sum(latency <= predicted + 10 for latency in found) / trials
        assert within >= quantile - 4.0 * math.sqrt(quantile * (1.0 - quantile) / trials)
    assert math.isfinite(max(found))


def turned_step(sampler: Sampler, table: SiteTable, calls: list[int], step: int) -> tuple[int, list[tuple[int, int]]]:
    """Play one armed step as the inspector does; return the calls looked at, and which were checked."""
    sampler.plan(table, 3.5 * COST)
    place = place_of(SUM, False)
    turn = num_looked_at = 0
    checked = []
    for number, times in enumerate(calls):
        origin = Origin(phase="forward", module=f"m{number}", location=None)
        for call in range(times):
            if sampler.may_want(place, turn):
                num_looked_at += 1
                site = table.at(SUM, ("sum",), origin, (torch.ones(2),), {}, turn=turn)
                if sampler.wants(site):
                    sampler.charge(COST)
                    site.record(COST, judged=True)
                    site.last_checked_step = step
                    checked.append((number, call))
            turn += 1
    sampler.end_step(table, {place: turn})
    return num_looked_at, checked


def test_calls_that_are_told_apart_are_not_looked_at_again() -> None:
    sampler, table, calls = Sampler(6), SiteTable(), [2, 5, 1, 4]
    looked_at, reached, num_steps = [], set(), 600
    for step in range(num_steps):
        number, checked = turned_step(sampler, table, calls, step)
        looked_at.append(number)
        reached |= set(checked)
    assert looked_at[0] == sum(calls)
    assert statistics.median(looked_at) <= 3  # of twelve: the quota buys three
    assert looked_at.count(sum(calls)) >= num_steps // SURVEY_EVERY
    assert reached == {(number, call) for number, times in enumerate(calls) for call in range(times)}
    assert [site.num_seen for site in table] == [num_steps * times for times in calls]


def test_calls_are_told_apart_anew_when_their_number_changes() -> None:
    sampler, table = Sampler(7), SiteTable()
    for step in range(20):
        turned_step(sampler, table, [3, 3], step)
    turned_step(sampler, table, [3, 3, 2], 20)  # noticed at its end
    number, _ = turned_step(sampler, table, [3, 3, 2], 21)
    assert number == 8
    assert len(table) == 3
    for step in range(22, 80):
        turned_step(sampler, table, [3, 3, 2], step)
    assert all(site.num_checked > FIRST_VISITS for site in table)


def test_operators_whose_calls_belong_to_no_site_are_seldom_looked_at() -> None:
    sampler, table, place = Sampler(8), SiteTable(), place_of(SUM, False)
    looked_at = []
    for _ in range(2 * FORGET_EVERY):
        sampler.plan(table, COST)
        looked_at.append(sampler.may_want(place, 0))
        sampler.end_step(table, {place: 1})
    assert sum(looked_at) == 3
