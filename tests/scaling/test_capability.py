"""Pass rates as a power of compute, and what the smaller models say of the largest, by difficulty."""

import csv
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numguard import scaling
from numguard.errors import UsageError
from tests.scaling.real_data import real_data

COMPUTE = np.geomspace(1e18, 1e22, 7)
EXPONENT = 0.12


def _rates(rng: np.random.Generator, num_items: int = 120, num_samples: int | None = None) -> NDArray[np.float64]:
    """Pass rates that follow the law item by item, hence bucket by bucket; sampled where a number of tries is given."""
    hardness = rng.uniform(0.2, 3.0, num_items)
    rates = np.exp(-hardness * (COMPUTE[:, None] / COMPUTE[0]) ** -EXPONENT)
    return rates if num_samples is None else rng.binomial(num_samples, rates) / num_samples


def test_the_law_is_recovered() -> None:
    rates = _rates(np.random.default_rng(0))
    fitted = scaling.fit(scaling.CapabilityLaw(), C=COMPUTE, pass_rate=rates)
    # Exact data and a fit that is linear in theta: what is left is the optimizer's own stopping error.
    assert fitted.params["k"] == pytest.approx(EXPONENT, abs=1e-6)
    predicted = fitted.predict(C=1e23)
    assert predicted.value == pytest.approx(-np.log(rates[0]).mean() * (1e23 / 1e18) ** -EXPONENT, rel=1e-4)
    assert predicted.low < predicted.value < predicted.high


def test_its_gradient_is_that_of_its_value() -> None:
    law = scaling.CapabilityLaw()
    design = law.design({"C": COMPUTE})
    theta = np.array([[1.0, 0.1], [-2.0, 0.5]])
    value, gradient = law.log_value_and_gradient(theta, design)
    assert np.array_equal(value, law.log_value(theta, design))
    step = 1e-6
    for parameter in range(2):
        moved = theta.copy()
        moved[:, parameter] += step
        # log_value is linear in theta, so differences carry rounding alone: |value| * 2^-52 / step.
        slope = (law.log_value(moved, design) - value) / step
        assert np.abs(slope - gradient[:, parameter]).max() <= np.abs(value).max() * 2.0**-50 / step


def test_parameters_go_there_and_back() -> None:
    law = scaling.CapabilityLaw()
    values = law.values(law.theta({"alpha": 3.5, "k": 0.2})[None])[0]
    assert values == pytest.approx([3.5, 0.2])


def test_every_bucket_of_lawful_items_is_predicted() -> None:
    rates = _rates(np.random.default_rng(1), num_samples=500)
    found = scaling.capability(COMPUTE, rates, num_samples=500)
    assert found.whole.covered
    assert sum(bucket.covered for bucket in found.buckets) >= 5
    assert [len(bucket.items) for bucket in found.buckets] == [20] * 6
    outcomes = [bucket.observed for bucket in found.buckets]
    assert outcomes == sorted(outcomes), "the easiest first"
    for bucket in (found.whole, *found.buckets):
        assert bucket.item_error > bucket.sampling_error > 0


def test_an_easiest_bucket_that_saturates_is_seen_by_itself() -> None:
    """The other buckets follow the law, and the easiest does worse in the largest model than in the next."""
    rates = _rates(np.random.default_rng(2))
    easiest = list(scaling.capability(COMPUTE, rates).easiest.items)
    rates[-1, easiest] = rates[-2, easiest] * 0.85
    found = scaling.capability(COMPUTE, rates)
    assert sorted(found.easiest.items) == sorted(easiest), "the largest model has no say in what is easy"
    assert not found.easiest.covered
    assert all(bucket.covered for bucket in found.harder)


def test_models_may_come_in_any_order() -> None:
    rates = _rates(np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(len(COMPUTE))
    straight, mixed = scaling.capability(COMPUTE, rates), scaling.capability(COMPUTE[order], rates[order])
    assert straight.whole.prediction == mixed.whole.prediction
    assert [bucket.items for bucket in straight.buckets] == [bucket.items for bucket in mixed.buckets]


def test_items_that_not_every_model_solves_are_left_out_and_said() -> None:
    rates = _rates(np.random.default_rng(5))
    rates[0, 3], rates[-1, 7] = 0.0, 0.0
    found = scaling.capability(COMPUTE, rates)
    assert found.left_out == (3, 7)
    assert not {3, 7} & set(found.whole.items)
    assert any(text.startswith("2 of 120 items are left out") for text in found.warnings)
    assert any(text.startswith("1 of these fail on the largest model alone") for text in found.warnings)
    assert scaling.solved_by_all(rates).sum() == 118


def test_the_law_itself_never_takes_the_logarithm_of_zero() -> None:
    rates = _rates(np.random.default_rng(6))
    rates[2, 5] = 0.0
    with pytest.raises(UsageError, match=r"model 2 never solved item 5.*solved_by_all"):
        scaling.fit(scaling.CapabilityLaw(), C=COMPUTE, pass_rate=rates)


FEW = np.full((5, 8), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"C": COMPUTE[:5], "pass_rate": FEW * 3}, "outside of 0 to 1"),
        ({"C": COMPUTE[:5], "pass_rate": FEW * np.nan}, "outside of 0 to 1 or NaN"),
        ({"C": COMPUTE[:5], "pass_rate": FEW[0]}, "buckets need single items"),
        ({"C": COMPUTE[:4], "pass_rate": FEW}, "4 values of C and 5 models"),
        ({"C": COMPUTE[:3], "pass_rate": FEW[:3]}, "3 models; at least 4"),
        ({"C": COMPUTE[[0, 1, 2, 3, 3]], "pass_rate": FEW}, "two largest models have the same compute"),
        ({"C": COMPUTE[:5], "pass_rate": FEW, "num_buckets": 9}, "solves 8 items, too few for 9 buckets"),
        ({"C": COMPUTE[:5], "pass_rate": FEW, "num_samples": 0}, "below 1"),
        ({"C": COMPUTE[:5], "pass_rate": FEW, "num_samples": [1, 2]}, "does not fit 5 models"),
        ({"C": COMPUTE[:5], "pass_rate": "abc"}, "not numeric"),
    ],
)
def test_a_mistake_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scaling.capability(**arguments)


@pytest.mark.parametrize(
    ("loss", "columns", "message"),
    [
        (None, {"C": COMPUTE}, "needs what the models achieved"),
        (COMPUTE, {"C": COMPUTE, "pass_rate": COMPUTE * 0 + 0.5}, "and no loss"),
        (None, {"C": COMPUTE, "pass_rate": COMPUTE * 0 + 1.5}, "between 0 and 1"),
        (None, {"C": COMPUTE, "pass_rate": COMPUTE * 0 + 1.0}, "passes every item always"),
        (None, {"C": -COMPUTE, "pass_rate": COMPUTE * 0 + 0.5}, "needs it above 0"),
    ],
)
def test_a_mistake_in_a_fit_is_told(loss: Any, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scaling.fit(scaling.CapabilityLaw(), loss, **columns)


def test_humaneval_of_single_families() -> None:
    """Fitted without its largest model, each family's exponent is near 0.2 and the interval covers the largest."""
    families: dict[str, dict[float, float]] = defaultdict(dict)
    with real_data("obs_scaling", "base_llm_benchmark_eval.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["HumanEval"] and row["FLOPs (1E21)"] and float(row["HumanEval"]) > 0:
                families[row["Model Family"]][float(row["FLOPs (1E21)"]) * 1e21] = float(row["HumanEval"])
    for family in ("Qwen1.5", "Pythia", "GPT-Neo/J", "BLOOM"):
        compute = sorted(families[family])
        rates = [families[family][one] for one in compute]
        fitted = scaling.fit(scaling.CapabilityLaw(), C=compute[:-1], pass_rate=rates[:-1])
        assert 0.18 <= fitted.params["k"] <= 0.24
        predicted = fitted.predict(C=compute[-1])
        assert predicted.low <= -np.log(rates[-1]) <= predicted.high
