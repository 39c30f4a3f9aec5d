"""The campaign's own arithmetic, on rows made on the spot."""

import math

import numpy as np
import pytest

from benchmarks.campaigns.detectors_calibration import _least_of_sums
from benchmarks.campaigns.detectors_cost import _line
from benchmarks.campaigns.detectors_page import section
from benchmarks.campaigns.detectors_rules import rules
from benchmarks.campaigns.detectors_scoring import (
    binomial_interval,
    num_episodes,
    poisson_interval,
    poisson_upper,
)
from tests.detectors.made_curves import curve


def test_alarms_within_fifty_rows_are_one_episode() -> None:
    assert num_episodes([]) == 0
    assert num_episodes([5, 20, 70, 121]) == 2


def test_intervals_are_exact() -> None:
    # No event in an exposure of 1: the upper 95 % limit is -log(0.05), the two-sided one -log(0.025).
    assert poisson_upper(0, 1.0) == pytest.approx(-math.log(0.05))
    none, most = poisson_interval(0, 1.0)
    assert none == 0.0
    assert most == pytest.approx(-math.log(0.025))
    low, high = binomial_interval(10, 10)
    assert high == 1.0
    assert low == pytest.approx(0.025**0.1)


def test_the_least_threshold_of_a_sum_leaves_as_many_episodes_as_are_allowed() -> None:
    first, second = np.zeros(400), np.zeros(400)
    first[[10, 30]], first[200], second[50] = 9.0, 5.0, 7.0
    found = [_least_of_sums([first, second], allowed) for allowed in (0, 1, 2)]
    assert found == pytest.approx([9.0, 7.0, 5.0])


def test_a_figure_that_was_measured_anew_replaces_its_line_only() -> None:
    page = "# Page\n\n## Cost\n\n- `a`: 1 us.\n- `a --memory`: 2 GiB.\n\n## Thresholds\n"
    known = section(page, "Cost")
    assert known == "## Cost\n\n- `a`: 1 us.\n- `a --memory`: 2 GiB.\n"
    assert _line(known, "- `a`: 3 us.").splitlines()[2:] == ["- `a --memory`: 2 GiB.", "- `a`: 3 us."]
    assert section(page, "Absent") == ""


@pytest.mark.parametrize(
    ("name", "jump", "expected"),
    [
        ("OLMo SkipStep 128/6 sigma, loss", 1.0, True),
        ("3 sigma, rolling 128", 0.4, True),
        ("ZClip's rule on the loss", 0.6, True),
        ("MosaicML KillLossSpike", 1.0, False),
        ("MosaicML KillLossSpike", 8.0, True),
        ("Megatron spiky loss", 8.0, False),
        ("Megatron spiky loss", 200.0, True),
        ("CUSUM, k 0.5, h 20", 0.6, True),
        ("Page-Hinkley, river's defaults", 0.5, False),
        ("Page-Hinkley, river's defaults", 20.0, True),
    ],
)
def test_rules_of_others_do_what_they_are_known_for(name: str, jump: float, expected: bool) -> None:
    rule, losses = rules()[name], curve(1200, seed=3)
    losses[1000:1010] += jump
    verdicts = [rule(row, loss, {}) for row, loss in enumerate(losses.tolist())]
    assert any(verdicts[1000:1012]) is expected
