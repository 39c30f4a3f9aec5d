"""Steps in which nothing is due: a few numbers are put aside, and dealt with when something is.

Between two training steps the caches belong to the model, and Python code runs several times slower than in a loop
of its own; what it touches is missing there afterwards. So an unarmed step does next to nothing, and what every step
needs is done for a batch of them.
"""

import math
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Final, NamedTuple

from torch import Tensor

from numguard.interception.boundaries import Boundaries

MOST_RESTING: Final = 32  # steps in a row
HOOK_SECONDS: Final = 4e-6  # what the hooks on an optimizer's step cost while they do nothing
SECONDS: Final = 15e-6 + HOOK_SECONDS  # what such a step costs; asking a clock twice would cost a part of that


class RestingStep(NamedTuple):
    """What is known of one step that was put aside: number, loss, length, and what numguard has cost in it."""

    step: int
    loss: float
    elapsed: float
    own: float


class Resting:
    """Puts steps aside.

    Attributes
    ----------
    boundaries
        The marks on the blocks, which are told of the end of a step; may be None.
    """

    def __init__(self) -> None:
        self.boundaries: Boundaries | None = None
        self._steps: list[tuple[float, float]] = []
        self._charges: Counter[int] = Counter()  # by how many steps were put aside before
        self._first = 0

    def begin(self, step: int) -> None:
        """Note the number of the step that begins now."""
        self._first = step - len(self._steps)

    @property
    def current(self) -> int:
        """Number of the present step."""
        return self._first + len(self._steps)

    def charge(self, seconds: float) -> None:
        """Enter what a hook has cost in the present step."""
        self._charges[len(self._steps)] += seconds  # type: ignore[assignment]

    def take(self, loss: Tensor) -> bool:
        """Put a step aside; False, and nothing done, where its loss is not one finite number."""
        try:
            value = loss.item()
            if not math.isfinite(value):
                return False
        except (RuntimeError, TypeError):  # complex, or without a value: refused where there is time to say why
            return False
        self._steps.append((value, perf_counter()))
        if self.boundaries is not None:
            self.boundaries.end_step()
        return True

    def settle(self, began: float, watch: Callable[[int, float], float]) -> tuple[list[RestingStep], float, float]:
        """Return the steps that were put aside, when the last of them ended, and what it took to watch their losses.

        Parameters
        ----------
        began
            When the first of them began.
        watch
            Takes step and loss; returns the seconds that this took.
        """
        steps, self._steps = self._steps, []
        charges, self._charges = self._charges, Counter()
        if len(steps) in charges:  # of the step that goes on
            self._charges[0] = charges[len(steps)]
        settled, watching = [], 0.0
        for at, (loss, ended) in enumerate(steps):
            seconds = watch(self._first + at, loss)
            watching += seconds
            own = charges[at] + SECONDS + seconds
            settled.append(RestingStep(self._first + at, loss, max(ended - began, 1e-9), own))
            began = ended
        self._first += len(steps)
        return settled, began, watching

    def take_charges(self) -> float:
        """Return what hooks have cost in the present step, where no step is put aside, and forget it."""
        seconds = float(sum(self._charges.values()))
        self._charges.clear()
        return seconds
