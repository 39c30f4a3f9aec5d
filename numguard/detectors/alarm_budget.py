"""How many false alarms are allowed, how they are shared out, and what the thresholds gave on real runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from numguard.errors import UsageError

Rung = Literal["reference", "proxy", "log-trend"]

#: False alarms per logged step for which :data:`THRESHOLDS` were measured.
CALIBRATED_RATE: Final = 1.0 / 20_000
#: Threshold of a test that a rung does not use.
NEVER: Final = 1e6
#: Share of the budget of each statistic; what one may spend, the others may not.
SHARES: Final[Mapping[str, float]] = MappingProxyType(
    {"loss_spike": 0.3, "loss_shift": 0.4, "loss_noise": 0.2, "gradient_lead": 0.1}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A threshold at the calibrated rate and how much it moves when the rate is divided by e.

    Parameters
    ----------
    level
        At :data:`CALIBRATED_RATE` and the share in :data:`SHARES`.
    per_e_fold
        Increase for a rate smaller by the factor e.
    """

    level: float
    per_e_fold: float


def _table(**thresholds: tuple[float, float]) -> Mapping[str, Threshold]:
    return MappingProxyType(
        {name: Threshold(level=level, per_e_fold=slope) for name, (level, slope) in thresholds.items()}
    )


_LOG_TREND: Final = _table(
    single=(30.4, 6.8),
    three=(7.0, 0.2),
    eight=(7.9, 0.5),
    single_down=(9.7, 1.4),
    three_down=(9.0, 1.9),
    fast=(13.2, 1.9),
    fast_down=(29.0, 6.0),
    slow=(10.5, 4.0),
    slow_down=(76.3, 41.3),
    noise=(20.1, 3.0),
    noise_down=(28.3, 3.5),
    gradient=(20.6, 5.3),
    gradient_young=(7.4, 2.1),
)
#: Thresholds of every statistic by rung. How each was found: ``docs/detectors.md``.
THRESHOLDS: Final[Mapping[str, Mapping[str, Threshold]]] = MappingProxyType(
    {
        "log-trend": _LOG_TREND,
        "proxy": _LOG_TREND,
        # A batch that two seeds answer differently is one row long (seen: 0.4 nat apart in every pair of runs), so a
        # single row is judged by the bank of the loss itself, in units of the batches' noise.
        "reference": MappingProxyType(
            {
                **_LOG_TREND,
                **_table(fast=(23.0, 1.9), fast_down=(43.0, 6.0), single=(NEVER, 0.0), single_down=(NEVER, 0.0)),
            }
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What the thresholds gave on runs that had no part in fixing them.

    Parameters
    ----------
    num_episodes, num_steps, num_runs
        False-alarm episodes (alarms within 50 steps are one), and the steps and runs they were counted on.
    per_10k, low, high
        Episodes per 10,000 steps, with its exact 95 % Poisson interval.
    """

    num_episodes: int
    num_steps: int
    num_runs: int
    per_10k: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.per_10k:.2f} false alarms per 10,000 steps (95 % interval {self.low:.2f} to {self.high:.2f}; "
            f"{self.num_episodes} in {self.num_steps:,} steps of {self.num_runs} runs)"
        )


#: Measured by ``python -m benchmarks.campaigns.detectors``; None where no runs were at hand.
CALIBRATIONS: Final[Mapping[str, Calibration | None]] = MappingProxyType(
    {
        "log-trend": Calibration(num_episodes=4, num_steps=205_374, num_runs=27, per_10k=0.19, low=0.05, high=0.50),
        "reference": Calibration(num_episodes=1, num_steps=17_670, num_runs=19, per_10k=0.57, low=0.01, high=3.15),
        "proxy": None,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmBudget:
    """Allowed false alarms, and the thresholds that follow.

    Parameters
    ----------
    per_step
        False alarms per logged step of the whole bank of statistics; one in 20,000 by default.
    shares
        Part of it for each of the four statistics; they must add up to 1.
    levels
        Thresholds of one's own, by the names in :data:`THRESHOLDS`: they replace the measured ones on every rung.
    """

    per_step: float = CALIBRATED_RATE
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    levels: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.per_step < 1.0:
            raise UsageError(
                f"per_step={self.per_step!r} is no rate of false alarms per step; write for example 1 / 20_000"
            )
        if set(self.shares) != set(SHARES) or min(self.shares.values()) <= 0.0:
            raise UsageError(f"shares={dict(self.shares)!r} must give a positive share to each of {[*SHARES]}")
        if set(self.levels) - set(_LOG_TREND):
            raise UsageError(f"levels={dict(self.levels)!r} names no threshold; known are {[*_LOG_TREND]}")
        if not math.isclose(sum(self.shares.values()), 1.0, rel_tol=1e-9):
            raise UsageError(f"shares={dict(self.shares)!r} add up to {sum(self.shares.values()):.6g}, not to 1")

    def thresholds(self, rung: Rung, statistic: str) -> dict[str, float]:
        """Return the thresholds of one statistic.

        Parameters
        ----------
        rung
            What the loss is compared with.
        statistic
            A key of :data:`SHARES`.
        """
        e_folds = math.log(CALIBRATED_RATE * SHARES[statistic] / (self.per_step * self.shares[statistic]))
        return {
            name: self.levels.get(name, max(0.25 * threshold.level, threshold.level + threshold.per_e_fold * e_folds))
            for name, threshold in THRESHOLDS[rung].items()
        }
