"""Which cases the campaign runs: every pattern at every site in every dtype, and more of them below and near B."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.campaigns.injection_patterns import patterns_of
from benchmarks.campaigns.injection_runs import Case, Outcome, Witness, run_case
from benchmarks.campaigns.injection_sites import SITES

#: Sizes, in bounds, that the injector looks for in turn: most of them where a fault is hard to tell from rounding.
TARGETS: Final = (3.0, 6.0, 12.0, 25.0, 50.0, 90.0)

#: One bit, or one addend, as close to B as the numbers allow: below, below, and just above two.
NEAR: Final = (("flipped bit", 0.5), ("dropped element", 0.9), ("flipped bit", 2.2))

_MOST_SEEDS: Final = 8  # tried until a fault changes something


def cases() -> tuple[Case, ...]:
    """Return the cases of the full campaign, always the same."""
    return tuple(_cases())


def _cases() -> Iterator[Case]:
    number = 0
    for site in SITES:
        patterns = patterns_of(site)
        for dtype in site.dtypes:
            wanted = [(pattern, TARGETS[(number + place) % len(TARGETS)]) for place, pattern in enumerate(patterns)]
            wanted += [(pattern, target) for pattern, target in NEAR if pattern in patterns]
            for pattern, target in wanted:
                yield Case(
                    site=site,
                    dtype=dtype,
                    pattern=pattern,
                    target=target,
                    transient=number % 3 == 0,
                    armed=number % 5 == 0 and not site.under_mode,
                    seed=number,
                )
                number += 1


def sample(count: int) -> tuple[Case, ...]:
    """Return cases from all over the campaign, evenly spaced; the spacing meets every dtype and pattern."""
    everything = cases()
    return tuple(everything[index * len(everything) // count] for index in range(count))


def run(case: Case, witness: Witness | None = None) -> Outcome:
    """Run a case; where its fault happens to change nothing, with the next seed."""
    for attempt in range(_MOST_SEEDS):
        outcome = run_case(replace(case, seed=case.seed + 100_000 * attempt), witness)
        if outcome.verdict != "no fault":
            return outcome
    return outcome
