"""From the ladder's logs to a registered prediction of a larger run, and to its score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.ladder.logs import FIRST_PREDICTED, MARKS, Log, mark_steps
from examples.ladder.training import Rung
from numguard import scaling
from numguard.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """Which runs there are.

    Parameters
    ----------
    rungs
        Sizes that are fitted, smallest first.
    target
        The size that is predicted.
    seeds
        Of each rung's runs.
    """

    rungs: tuple[Rung, ...]
    target: Rung
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def distance(self) -> float:
        """How many times more compute the target takes than the largest rung."""
        return self.target.compute(self.target.num_steps) / self.rungs[-1].compute(self.rungs[-1].num_steps)


FULL = Ladder(rungs=tuple(Rung(width=width) for width in (16, 24, 32, 40, 48)), target=Rung(width=128))
#: The same in seconds, to see that everything works; what it predicts is of no use.
SAMPLE = Ladder(
    rungs=tuple(Rung(width=width, context=32, tokens_per_parameter=1) for width in (8, 16, 24)),
    target=Rung(width=64, context=32, tokens_per_parameter=1),
    seeds=(0, 1),
)


def fit_marks(logs: Sequence[Log]) -> list[scaling.Fit]:
    """Return one law for each predicted mark: held-out loss against compute, at equal shares of each run.

    Parameters
    ----------
    logs
        Of all rungs and seeds.
    """
    fits = []
    for mark in range(FIRST_PREDICTED, len(MARKS)):
        compute = [log.rung.compute(log.marks[mark][0]) for log in logs]
        losses = [log.marks[mark][1] for log in logs]
        # Without a floor: on this ladder the data push it to zero, and a parameter less makes the interval honest.
        fits.append(scaling.fit(scaling.PowerLaw(floor=False), losses, C=compute))
    return fits


def register_target(registry: Path, name: str, ladder: Ladder, fits: Sequence[scaling.Fit]) -> scaling.Registered:
    """Write the target's curve into the registry, mark by mark.

    Parameters
    ----------
    registry
        The file.
    name
        Of the prediction.
    ladder, fits
        What is predicted, and by what.
    """
    steps = mark_steps(ladder.target)[FIRST_PREDICTED:]
    if len(fits) != len(steps):
        raise UsageError(f"there are {len(fits)} fits for {len(steps)} marks; pass what fit_marks returned")
    return scaling.register(
        registry,
        fits,
        name=name,
        C=[ladder.target.compute(step) for step in steps],
        also={"step": steps, "tokens": [step * ladder.target.tokens_per_step for step in steps]},
        note=f"held-out loss in nats per byte, width {ladder.target.width}",
    )


def score(registry: Path, name: str, log: Log) -> scaling.Verification:
    """Return how the prediction did.

    Parameters
    ----------
    registry, name
        Where it is.
    log
        Of the target.
    """
    marks = log.marks[FIRST_PREDICTED:]
    outcome = {"step": [float(step) for step, _ in marks], "loss": [loss for _, loss in marks]}
    return scaling.verify(registry, outcome, name=name)
