"""Predictions 8 to 16 times further than what was fitted: a sample of the campaign in ``benchmarks/campaigns``."""

import numpy as np
import pytest

from benchmarks.campaigns.scaling_families import Family
from benchmarks.campaigns.scaling_holdouts import (
    CANDIDATES,
    FARTHEST,
    NEAREST,
    SHIPPED,
    Holdout,
    chosen_on,
    clopper_pearson,
    cuts_of,
    hold_out,
    hold_outs,
    scored,
)
from numguard import scaling
from tests.scaling.published import column, rows_of


def made_up(seed: int) -> Family:
    """Return losses of eleven runs, each twice the last, about a power law that a second, faster one bends."""
    random = np.random.default_rng(seed)
    compute = np.ldexp(1e16, np.arange(11))
    slope, bend = random.uniform(0.08, 0.2), random.uniform(0.0, 0.3)
    loss = 1.8 + 2.0 * (compute / 1e16) ** -slope + bend * (compute / 1e16) ** -0.5
    loss *= np.exp(0.002 * random.standard_normal(11))
    return Family(
        name=f"made up {seed}", source="none", law=scaling.PowerLaw(), columns={"C": compute}, loss=loss, size=compute
    )


def test_nine_of_ten_made_up_families_are_covered() -> None:
    """Of 20 families 18 on average; the exact interval of what is seen contains the nominal 90 %."""
    results = [hold_out(family, cuts_of(family)[-1], latest=True) for family in map(made_up, range(20))]
    low, high = clopper_pearson(sum(result.covered(SHIPPED) for result in results), len(results))
    assert low <= 0.9 <= high
    assert all(NEAREST <= result.times <= FARTHEST for result in results)
    assert np.median([result.half_widths[CANDIDATES.index(SHIPPED)] for result in results]) < 0.1


def test_optima_of_published_sweeps_are_covered_16_times_further() -> None:
    """Porian et al., arXiv 2406.19146, five settings: fitted the smallest computes, predicted 16 times further."""
    rows = [row for row in rows_of("porian/optimal_pairs.csv") if row["loss"]]
    covered = 0
    for setting in range(5):
        own = [row for row in rows if row["row"] == str(setting)]
        compute, loss = column(own, "flops"), column(own, "loss")
        fitted = scaling.fit(scaling.PowerLaw(), loss[:-4], C=compute[:-4], num_bootstraps=200)
        prediction = fitted.predict(C=compute[-1])
        assert prediction.distance == pytest.approx(16.0)
        covered += prediction.low <= loss[-1] <= prediction.high
    assert covered >= 4


def result(source: str, error: float, *, latest: bool = True) -> Holdout:
    return Holdout(
        family=source, source=source, num_fitted=9, times=10.0, error=error, half_widths=CANDIDATES, latest=latest
    )


def test_a_source_is_scored_with_the_constant_of_the_others() -> None:
    results = [result("tame", 0.001), result("wild", 0.009), result("wilder", 0.0119)]
    assert chosen_on(results[:1]) == 0.004
    chosen = {source: constant for source, (constant, _) in scored(results).items()}
    assert chosen == {"tame": 0.012, "wild": 0.012, "wilder": 0.010}
    own = scored(results)["wilder"][1][0]
    assert not own.covered(chosen["wilder"])


def test_exact_intervals_are_the_published_ones() -> None:
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert clopper_pearson(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)


def test_fits_of_a_family_end_before_what_they_predict() -> None:
    family = made_up(0)
    assert [round(cut / 1e16) for cut in cuts_of(family)] == [32, 64, 128]
    assert [own.num_fitted for own in hold_outs([family])] == [8, 7, 6]
    assert [own.latest for own in hold_outs([family])] == [True, False, False]
