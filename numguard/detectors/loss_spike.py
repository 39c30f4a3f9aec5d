"""The loss jumps, for one row or for a few."""

from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm

#: What one row can add to a sum of rows: one hard batch alone is then never a spike, however hard.
CLIP: Final = 5.0
QUIET_ROWS: Final = 10
LEAST_ROWS: Final = 12


@dataclass(slots=True, kw_only=True)
class LossSpike:
    """One row far outside, three rows outside, eight rows a little outside.

    Parameters
    ----------
    thresholds
        Of ``single``, ``three`` and ``eight`` rows, in standard deviations of such a sum, and of the falls.
    recent
        The last eight standardised rows, each clipped to :data:`CLIP`.
    quiet
        Rows since the last row outside; a new episode needs :data:`QUIET_ROWS` of them.

    Notes
    -----
    Three clipped rows reach at most 5 * sqrt(3) = 8.7 and eight at most 14.1 standard deviations.
    """

    thresholds: dict[str, float]
    recent: list[float] = field(default_factory=list)
    quiet: int = QUIET_ROWS

    def add(self, score: float, scale: float) -> Alarm | None:
        """Take one standardised row; return an alarm at the first row of an episode that crosses.

        Parameters
        ----------
        score
            Residual in standard deviations.
        scale
            Standard deviation of a row.
        """
        recent, limits = self.recent, self.thresholds
        recent.append(CLIP if score > CLIP else -CLIP if score < -CLIP else score)
        if len(recent) > 8:
            del recent[0]
        three = (recent[-1] + recent[-2] + recent[-3]) * 0.5773502691896258 if len(recent) >= 3 else 0.0
        outside = score > limits["single"] or three > limits["three"]
        if not outside and len(recent) == 8:
            outside = sum(recent) * 0.35355339059327373 > limits["eight"]
        below = score < -limits["single_down"] or three < -limits["three_down"]
        if not (outside or below):
            self.quiet += 1
            return None
        first, self.quiet = self.quiet >= QUIET_ROWS, 0
        if not first:
            return None
        if outside:
            crossed = score > limits["single"]
            statistic, limit = (score, limits["single"]) if crossed else (three, limits["three"])
            if not crossed and three <= limits["three"]:
                statistic, limit = sum(recent) * 0.35355339059327373, limits["eight"]
            test = "single" if crossed else "three" if limit == limits["three"] else "eight"
        else:
            crossed = score < -limits["single_down"]
            statistic, limit = (-score, limits["single_down"]) if crossed else (-three, limits["three_down"])
            test = "single_down" if crossed else "three_down"
        return Alarm(
            detector="loss_spike",
            kind="loss_spike",
            direction="up" if outside else "down",
            statistic=statistic,
            threshold=limit,
            onset_rows={"single": 1, "eight": 8}.get(test.removesuffix("_down"), 3),
            test=test,
            size=score * scale,
        )

    def reset(self) -> None:
        """Forget the last rows: they belong to another stretch of the run."""
        self.recent.clear()
