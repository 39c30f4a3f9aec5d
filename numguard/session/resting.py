"""Steps in which nothing is due: a few numbers are put aside, and dealt with when something is.

Between two training steps the caches belong to the model, and Python code runs several times slower than in a loop
of its own. So an unarmed step does next to nothing, and what every step needs is done for a batch of them.
"""

import math
from time import perf_counter
from typing import Final, NamedTuple

from torch import Tensor

MOST_RESTING: Final = 32  # steps in a row
HOOK_SECONDS: Final = 2e-6  # what the hooks on an optimizer's step cost while they do nothing
SECONDS: Final = 15e-6 + HOOK_SECONDS  # what such a step costs; asking a clock twice would cost a part of that


class RestingStep(NamedTuple):
    """What is put aside of one step: its number, loss, when it ended, and what hooks have cost in it."""

    step: int
    loss: float
    ended: float
    hook_seconds: float


class Resting:
    """Puts steps aside."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, float, float, float]] = []

    def take(self, step: int, loss: Tensor, hook_seconds: float) -> bool:
        """Put a step aside; False, and nothing done, where its loss is not one finite number."""
        try:
            if loss.numel() != 1 or not math.isfinite(value := loss.item()):
                return False
        except (RuntimeError, TypeError):  # complex, or without a value: refused where there is time to say why
            return False
        self._steps.append((step, value, perf_counter(), hook_seconds))
        return True

    def drain(self) -> list[RestingStep]:
        """Return the steps that were put aside, and forget them."""
        steps, self._steps = self._steps, []
        return [RestingStep._make(step) for step in steps]
