"""How much the demo must check so that 999 of 1,000 seeds find its fault."""

import math
from typing import Final

from numguard.demonstration.broken_kernel import FAULT_RATE

MISSED_SEEDS: Final = 1e-3

#: Sums of the training script in which one slot runs over exchangeable values: the summed loss, and 16 sequences.
#: The sums of squared gradients come on top and are not counted.
NUM_FAULTY_SLOTS: Final = 1 + 16

#: Time to check every site of the script once, in steps of training. Measured: see the demo's test, which counts the
#: checks that were really made.
SWEEP_STEPS: Final = 8.0

#: Share of the time that goes into steps that are not armed: what every step costs, whatever the budget.
RESTING_SHARE: Final = 0.01

LEAST_BUDGET: Final = 0.05
MOST_BUDGET: Final = 0.4


def budget_for(num_faulty_steps: int) -> float:
    r"""Return the share of step time with which 999 of 1,000 seeds find the fault.

    Parameters
    ----------
    num_faulty_steps
        Steps that are trained with the faulty kernel.

    Notes
    -----
    With budget :math:`b` every site is checked about :math:`n = b \cdot steps / sweep` times while the fault is in,
    where :math:`sweep` is what one check of every site costs, in steps. A check of a sum with :math:`s` slots misses
    a fault of rate :math:`r` with probability :math:`(1 - r)^s`, so that

    .. math:: P(\text{missed}) = (1 - r)^{s n} \le 10^{-3}
        \quad\Leftrightarrow\quad b \ge \frac{sweep \cdot \ln 1000}{-s \ln(1 - r) \cdot steps}.

    What unarmed steps cost comes on top. At least 5 %: steps of ten milliseconds are so short that the default of 1 %
    arms one in 200 of them, and a demo of a minute does not have enough of those. At most 40 %.
    """
    exponent = -NUM_FAULTY_SLOTS * math.log1p(-FAULT_RATE)
    needed = RESTING_SHARE + SWEEP_STEPS * -math.log(MISSED_SEEDS) / (exponent * max(num_faulty_steps, 1))
    return min(max(needed, LEAST_BUDGET), MOST_BUDGET)
