"""Which calls of an armed step are checked: new sites first, then the oldest, the rest at random by cost.

To tell where a call comes from costs a good part of a check. So a plan names the calls that are wanted, by operator and
turn, as they were when the calls of that operator were last told apart, and all others pass. Now and then, and where
their number has changed, they are told apart anew.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from numguard.interception.sites import Place, Site, SiteTable

Part = Literal["whole", "model", "update"]  # of a step: all of it, all but the optimizer's step, that step alone
CHECKS_PER_QUOTA = 16
MOST_CALLS = 8  # of one site in one step
FORGET_EVERY = 64  # plans after which operators are looked at again whose calls belonged to no site
SURVEY_EVERY = 6  # plans that want an operator, of which one tells all of its calls apart
_OFFSETS = 64  # drawn at once
UNKNOWN_SECONDS = 1e-3  # what the first check of all is taken to cost; later first checks, as the others do


def _may_come(site: Site, part: Part) -> bool:
    return site.calls_per_step > 0.0 and (part == "whole" or site.in_update == (part == "update"))


class Sampler:
    """Plans the checks of armed steps within a quota of seconds.

    The plan names, for each chosen site, which of its calls in the step is checked: a site that is called once for
    every parameter is looked at through a random one of them, or through several where the quota has time left.

    Parameters
    ----------
    seed
        Each rank uses another one: ranks check other calls of the same steps.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._wanted: dict[int, frozenset[int]] = {}
        self._surveyed: set[Place] = set()
        self._known: frozenset[Place] = frozenset()
        self._num_plans = 0
        self._turns: dict[Place, set[int]] = {}
        self._age: Counter[Place] = Counter()
        self._unknown = UNKNOWN_SECONDS
        self._offsets: list[float] = []
        self._quota = 0.0
        self._remaining = 0.0
        self._exhaustive = False

    @property
    def seconds_per_check(self) -> float:
        """What one check may cost: a part of the quota, so that many sites are looked at rather than few."""
        return self._quota / CHECKS_PER_QUOTA

    @property
    def seconds_left(self) -> float:
        """What is left of the quota of this step."""
        return self._remaining

    def may_want(self, place: Place, turn: int) -> bool:
        """Return whether this call of an operator could be wanted in this step. Costs a few lookups."""
        turns = self._turns.get(place)
        if turns is not None and not self._exhaustive:
            return turn in turns
        return self._exhaustive or place in self._surveyed or self._is_news(place)

    def _is_news(self, place: Place) -> bool:
        """Return whether nobody knows which calls of an operator belong to which sites."""
        return place not in self._turns and place not in self._known

    def end_step(self, sites: SiteTable, counts: Mapping[Place, int]) -> None:
        """Let the sites know how many calls of each operator this armed step has met."""
        if self._exhaustive:
            sites.end_step()
            return
        passed_over = {place: counts.get(place, 0) for place in self._turns}
        told_apart = {p: n for p, n in counts.items() if p in self._surveyed or self._is_news(p)}
        sites.end_step(told_apart, passed_over)

    def offset(self) -> float:
        """Return a random number in [0, 1) that picks the rows of a check."""
        if not self._offsets:
            self._offsets = self._random.random(_OFFSETS).tolist()
        return self._offsets.pop()

    def plan(
        self,
        sites: SiteTable,
        quota_seconds: float,
        *,
        exhaustive: bool = False,
        part: Part = "whole",
    ) -> None:
        """Choose the sites of the next armed step, within the part of it that is armed."""
        self._exhaustive = exhaustive
        self._remaining = math.inf if exhaustive else quota_seconds
        self._quota = quota_seconds
        self._wanted, self._surveyed, self._turns = {}, set(), {}
        if exhaustive:
            return
        self._num_plans += 1
        if self._num_plans % FORGET_EVERY == 0:
            sites.forget_siteless()
        self._known = sites.told_apart()
        known = [site for site in sites if _may_come(site, part)]
        measured = [site.seconds for site in sites if site.seconds > 0.0]
        self._unknown = statistics.fmean(measured) if measured else UNKNOWN_SECONDS
        fresh = [site for site in known if site.is_fresh]
        rest = [site for site in known if not site.is_fresh]
        self._random.shuffle(fresh)
        fresh.sort(key=lambda site: site.num_checked)
        rest.sort(key=lambda site: site.last_checked_step)
        # Half of what is left goes to the oldest, half to sites drawn at random with weight 1 / cost.
        planned, chosen = 0.0, []
        for site in fresh + rest[: len(rest) // 2] + self._by_cost(rest[len(rest) // 2 :]):
            seconds = site.seconds or self._unknown
            if planned + seconds > quota_seconds:
                continue
            planned += seconds
            chosen.append(site)
            site.was_wanted = True
        self._choose_calls(chosen, quota_seconds - planned)

    def seconds_of_all(self, sites: SiteTable, *, part: Part = "whole") -> float:
        """Return what checks of all calls of a step would cost that can be checked in it."""
        calls = [(site, min(site.calls_per_step, MOST_CALLS)) for site in sites if _may_come(site, part)]
        return sum((site.seconds or self._unknown) * number for site, number in calls)

    def _choose_calls(self, sites: list[Site], spare_seconds: float) -> None:
        """Pick calls of each site: by their turns, where the calls of its operator have been told apart lately."""
        for place in {site.place for site in sites}:
            self._age[place] += 1
            if self._age[place] % SURVEY_EVERY == 0 or not all(site.turns for site in sites if site.place == place):
                self._surveyed.add(place)
                self._age[place] = 0
        for site, number in zip(sites, self._numbers_of_calls(sites, spare_seconds), strict=True):
            if site.place in self._surveyed:
                calls = max(1, round(site.calls_per_step))
                self._wanted[id(site)] = frozenset(self._random.permutation(calls)[:number].tolist())
            else:
                drawn = self._random.permutation(len(site.turns))[:number]
                self._turns.setdefault(site.place, set()).update(site.turns[call] for call in drawn)

    def _numbers_of_calls(self, sites: list[Site], spare_seconds: float) -> list[int]:
        """Return how many calls of each site are checked: one, and more in random order while there is time."""
        numbers = [1] * len(sites)
        for _ in range(MOST_CALLS - 1):
            for place in self._random.permutation(len(sites)).tolist():
                seconds = sites[place].seconds or self._unknown
                if numbers[place] + 1 <= sites[place].calls_per_step and seconds <= spare_seconds:
                    numbers[place] += 1
                    spare_seconds -= seconds
        return numbers

    def _by_cost(self, sites: list[Site]) -> list[Site]:
        if not sites:
            return []
        weights = np.array([1.0 / max(site.seconds, 1e-6) for site in sites])
        keys = self._random.random(len(sites)) ** (weights.max() / weights)  # Efraimidis and Spirakis 2006
        return [sites[index] for index in np.argsort(-keys)]

    def take_everything(self) -> Callable[[], None]:
        """Want every call until the returned function is called."""
        before = (self._exhaustive, self._remaining)
        self._exhaustive, self._remaining = True, math.inf

        def restore() -> None:
            self._exhaustive, self._remaining = before

        return restore

    def wants(self, site: Site) -> bool:
        """Return whether the call that was just counted at ``site`` is to be checked."""
        if self._exhaustive:
            return True
        if site.place in self._turns:  # the plan has named this very call
            return self._remaining >= (site.seconds or self._unknown)
        calls = self._wanted.get(id(site))
        if calls is not None:
            return site.calls_in_step - 1 in calls and self._remaining >= (site.seconds or self._unknown)
        if site.num_seen == 1:  # a site that no plan knew of
            return self._remaining > self._unknown
        return False

    def charge(self, seconds: float) -> None:
        """Take what a check has cost from the quota."""
        self._remaining -= seconds
