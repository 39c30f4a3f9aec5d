"""Which calls of an armed step are checked: new sites first, then the oldest, the rest at random by cost."""

import math
import statistics
from collections.abc import Callable
from typing import Literal

import numpy as np

from numguard.interception.sites import Site, SiteTable

Part = Literal["whole", "model", "update"]  # of a step: all of it, all but the optimizer's step, that step alone
CHECKS_PER_QUOTA = 16
UNKNOWN_SECONDS = 1e-3  # what the first check of all is taken to cost; later first checks, as the others do


class Sampler:
    """Plans the checks of armed steps within a quota of seconds.

    The plan names, for each chosen site, which of its calls in the step is checked: a site that is called once for
    every parameter is looked at through a random one of them.

    Parameters
    ----------
    seed
        Each rank uses another one: ranks check other calls of the same steps.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._wanted: dict[int, int] = {}
        self._funcs: set[object] = set()
        self._known: set[object] = set()
        self._unknown = UNKNOWN_SECONDS
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

    def may_want(self, func: object) -> bool:
        """Return whether some call of an operator could be wanted in this step. Costs two lookups."""
        return self._exhaustive or func in self._funcs or func not in self._known

    def offset(self) -> float:
        """Return a random number in [0, 1) that picks the rows of a check."""
        return float(self._random.random())

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
        self._wanted, self._funcs = {}, set()
        if exhaustive:
            return
        self._known = {site.func for site in sites if site.calls_per_step > 0.0}
        known = [
            site
            for site in sites
            if site.calls_per_step > 0.0 and (part == "whole" or site.in_update == (part == "update"))
        ]
        measured = [site.seconds for site in sites if site.seconds > 0.0]
        self._unknown = statistics.fmean(measured) if measured else UNKNOWN_SECONDS
        fresh = [site for site in known if site.is_fresh]
        rest = [site for site in known if not site.is_fresh]
        self._random.shuffle(fresh)
        fresh.sort(key=lambda site: site.num_checked)
        rest.sort(key=lambda site: site.last_checked_step)
        # Half of what is left goes to the oldest, half to sites drawn at random with weight 1 / cost.
        planned = 0.0
        for site in fresh + rest[: len(rest) // 2] + self._by_cost(rest[len(rest) // 2 :]):
            seconds = site.seconds or self._unknown
            if planned + seconds > quota_seconds:
                continue
            planned += seconds
            self._funcs.add(site.func)
            site.was_wanted = True
            self._wanted[id(site)] = int(self._random.random() * max(site.calls_per_step, 1.0))

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
        call = self._wanted.get(id(site))
        if call is not None:
            return site.calls_in_step == call + 1 and self._remaining >= (site.seconds or self._unknown)
        if site.num_seen == 1:  # a site that no plan knew of
            return self._remaining > self._unknown
        return False

    def charge(self, seconds: float) -> None:
        """Take what a check has cost from the quota."""
        self._remaining -= seconds
