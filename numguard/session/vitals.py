"""Always on: is the loss finite, is the gradient, and in which block did it go wrong.

The gradients at the block boundaries are kept for one more step and looked at when the next loss is not finite. Where
it is finite, somebody (a loss scaler, the user) has thrown a bad gradient away, and there is nothing to report.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from numguard.interception.boundaries import BlockOrigin, Boundaries
from numguard.interception.mailbox import Mailbox
from numguard.interception.nonfinite_origin import Birth, OriginSearch


@dataclass(frozen=True, kw_only=True, slots=True)
class Nonfinite:
    """A non-finite loss or update, with the best account of where it came from.

    Parameters
    ----------
    step
        In which it was born.
    block
        Where the block is known.
    birth
        Where the operator is known.
    what
        ``"loss"`` or ``"gradient"``.
    """

    step: int
    what: str
    block: BlockOrigin | None = None
    birth: Birth | None = None


class Vitals:
    """Watches loss and gradient of every step without waiting for the device.

    Parameters
    ----------
    mailbox
        Brings numbers to the host.
    immediate
        Whether it does so at once.
    boundaries, origins
        Blocks and operators, where they are watched.
    on_nonfinite
        Takes what was found.
    on_loss
        Takes ``(step, loss)`` as it becomes known.
    """

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        immediate: bool,
        boundaries: Boundaries | None,
        origins: OriginSearch,
        on_nonfinite: Callable[[Nonfinite], None],
        on_loss: Callable[[int, float], None],
    ) -> None:
        self._mailbox, self._immediate = mailbox, immediate
        self._boundaries, self._origins = boundaries, origins
        self._on_nonfinite, self._on_loss = on_nonfinite, on_loss
        self.num_nonfinite = 0
        self._healthy = True

    def end_step(self, step: int, loss: Any, *, searched: bool) -> float | None:
        """Look at the step that has ended; return its loss where it is known by now.

        Parameters
        ----------
        loss
            A tensor of one element, a number, or None.
        searched
            Whether every operator of the step was seen.
        """
        value: float | None = None
        if isinstance(loss, Tensor):
            if self._immediate:
                value = float(loss.detach())
            else:
                self._post(step, loss.detach(), searched)
                return None
        elif loss is not None:
            value = float(loss)
        if value is not None:
            self._on_loss(step, value)
        finite = value is None or math.isfinite(value)
        if searched or not finite:
            self._judge(step, finite, loss, searched)
        else:
            self._healthy = True
        if self._boundaries is not None:
            self._boundaries.end_step()
        return value

    def _judge(self, step: int, finite: bool, loss: Any, searched: bool) -> None:
        birth = self._origins.question(loss if isinstance(loss, Tensor) else None)(finite) if searched else None
        if finite and birth is None:
            self._healthy = True
            return
        self.num_nonfinite += 1
        if not self._healthy:
            return  # what follows from the first one, until a loss is finite again
        self._healthy = False
        self._on_nonfinite(self._account(step, "loss" if not finite else "gradient", birth))

    def _account(self, step: int, what: str, birth: Birth | None) -> Nonfinite:
        boundaries = self._boundaries
        block = boundaries.forward_origin() if boundaries is not None else None
        if birth is None and boundaries is not None and (block is None or block.block == boundaries.first):
            # Everything is non-finite from the first block on. Where the backward of the step before was too, the
            # value was born there and came here through the parameters.
            earlier = boundaries.gradient_origin(earlier=True)
            if earlier is not None:
                return Nonfinite(step=step - 1, what="gradient", block=earlier)
        return Nonfinite(step=step, what=what, birth=birth, block=block)

    def _post(self, step: int, loss: Tensor, searched: bool) -> None:
        """Send loss and flags on their way; they are judged when they arrive."""
        names, flags = self._boundaries.numbers() if self._boundaries is not None else ((), [])
        ask = self._origins.question(loss) if searched else None
        numbers = torch.stack([part.reshape(()).to(torch.float64) for part in (loss, *flags)])

        def deliver(values: list[float]) -> None:
            self._on_loss(step, values[0])
            finite = math.isfinite(values[0])
            birth = ask(finite) if ask is not None else None
            if finite and birth is None:
                self._healthy = True
                return
            self.num_nonfinite += 1
            if self._healthy:
                self._healthy = False
                block = _first_block(names, values[1:])
                what = "gradient" if finite else "loss"
                self._on_nonfinite(Nonfinite(step=step, what=what, birth=birth, block=block))

        self._mailbox.post(numbers, deliver)
        if self._boundaries is not None:
            self._boundaries.end_step()


def _first_block(names: tuple[str, ...], values: list[float]) -> BlockOrigin | None:
    found = next((name for name, value in zip(names, values, strict=True) if not math.isfinite(value)), None)
    return None if found is None else BlockOrigin(block=found, phase="forward", exact=True)
