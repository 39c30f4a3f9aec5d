"""What a user can get wrong: each message says what came, why that is wrong, and what to pass instead."""

from typing import Any

import numpy as np
import pytest

from numguard import scaling
from numguard.errors import UsageError

COMPUTE = [1e15, 1e16, 1e17, 1e18, 1e19]
LOSS = [4.0, 3.4, 3.0, 2.8, 2.6]
CURVE = {"step": [0, 10, 20, 30, 40, 50], "lr": [0.0, 1e-3, 1e-3, 1e-3, 5e-4, 1e-4]}


@pytest.mark.parametrize(
    ("law", "loss", "given", "message"),
    [
        (scaling.ChinchillaLaw(), LOSS, {"N": COMPUTE}, "needs the column 'D'; pass N=…, D=…"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE, "D": COMPUTE}, "has no column 'D': its columns are C"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE[:3]}, "loss has shape"),
        (scaling.ChinchillaLaw(), LOSS, {"N": COMPUTE, "D": COMPUTE[1:]}, "differ in length: N has 5, D has 4"),
        (scaling.PowerLaw(), LOSS, {"C": []}, "the columns are empty"),
        (scaling.PowerLaw(), LOSS, {"C": ["a"] * 5}, "column 'C' is not numeric"),
        (scaling.PowerLaw(), LOSS, {"C": [*COMPUTE[:4], float("nan")]}, r"C\[4\] is nan"),
        (scaling.PowerLaw(), LOSS, {"C": [*COMPUTE[:4], -1.0]}, r"C\[4\] is -1, and .* needs it above 0"),
        (scaling.PowerLaw(), [*LOSS[:4], float("inf")], {"C": COMPUTE}, r"loss\[4\] is inf"),
        (scaling.PowerLaw(), [*LOSS[:4], float("nan")], {"C": COMPUTE}, r"loss\[4\] is nan"),
        (scaling.PowerLaw(), [*LOSS[:4], 0.0], {"C": COMPUTE}, "pass positive losses"),
        (scaling.PowerLaw(), None, {"C": COMPUTE}, "needs the observed losses"),
        (scaling.PowerLaw(), LOSS[:2], {"C": COMPUTE[:2]}, "has 3 parameters and there are 2 observations"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE, "delta": 0.0}, "delta=0.0 is not above 0"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE, "num_bootstraps": 3}, "num_bootstraps=3 is too few"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE, "weights": [1.0] * 4}, "weights must be 5 finite numbers"),
        (scaling.PowerLaw(), LOSS, {"C": COMPUTE, "weights": [0.0] * 5}, "all weights are 0"),
        ("chinchilla", LOSS, {"C": COMPUTE}, "'chinchilla' is not a law"),
        (scaling.AnnealingLaw(), [3.0] * 6, {**CURVE, "step": [0, 10, 5, 30, 40, 50]}, "step 5 in row 2"),
        (scaling.AnnealingLaw(), [3.0] * 6, {**CURVE, "lr": [0.0, -1.0, 1, 1, 1, 1]}, "lr -1; both must be"),
        (scaling.DataConstrainedLaw(), LOSS, {"N": COMPUTE, "D": COMPUTE, "U": [2e15, *COMPUTE[1:]]}, "at most D"),
    ],
)
def test_a_fit_says_what_is_wrong_with_its_columns(law: Any, loss: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scaling.fit(law, loss, **given)


@pytest.fixture(scope="module")
def fitted() -> scaling.Fit:
    return scaling.fit(scaling.PowerLaw(), LOSS, C=COMPUTE, num_bootstraps=20)


def test_a_fit_says_what_it_cannot_tell(fitted: scaling.Fit) -> None:
    with pytest.raises(UsageError, match="has no parameter 'alpha'; it has a, b, c"):
        fitted.interval("alpha")
    with pytest.raises(UsageError, match="level=90 is not a coverage"):
        fitted.interval("b", 90)
    with pytest.raises(UsageError, match="method='wald' is not available"):
        fitted.interval("b", method="wald")
    with pytest.raises(UsageError, match="level=0 is not a coverage"):
        fitted.predict(level=0, C=1e20)
    with pytest.raises(UsageError, match="needs the column 'C'"):
        fitted.predict()
    with pytest.raises(UsageError, match="was given c; pass each of them once"):
        scaling.assess(fitted, c=2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaling.AnnealingLaw(decay=1.0), "decay=1.0 is no decay"),
        (lambda: scaling.DataConstrainedLaw(tokens_per_parameter=0), "tokens_per_parameter=0 is not above 0"),
        (lambda: scaling.compare([scaling.PowerLaw()], LOSS, C=COMPUTE), "was given 1 law; pass at least two"),
        (lambda: scaling.convert_loss(1.0, "nats", "bits_per_byte"), "'nats' is not a unit"),
        (lambda: scaling.convert_loss(1.0, "nats_per_token", "nats_per_byte"), "needs bytes_per_token"),
        (lambda: scaling.allocate(LOSS, C=COMPUTE, N=COMPUTE), "0 compute budgets have 4 sizes"),
    ],
)
def test_the_rest_of_the_room_says_what_to_pass(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_too_few_and_too_similar_runs_are_told() -> None:
    close = scaling.fit(scaling.PowerLaw(), [3.0, 2.9, 2.81, 2.73], C=[1e18, 1.5e18, 2e18, 2.5e18], num_bootstraps=20)
    assert any("4 observations for 3 parameters leave 1" in warning for warning in close.warnings)
    assert any("2.5 times the smallest" in warning for warning in close.warnings)


def test_a_law_may_be_given_as_a_class() -> None:
    assert scaling.fit(scaling.PowerLaw, LOSS, C=COMPUTE, num_bootstraps=20).law == scaling.PowerLaw()


def test_scalars_count_as_one_row(fitted: scaling.Fit) -> None:
    assert fitted.predict(C=np.float64(1e20)).value == fitted.predict(C=[1e20]).value[0]
