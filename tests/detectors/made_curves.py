"""Loss curves made on the spot, and what a monitor says of them."""

from typing import Any

import numpy as np

from numguard.detectors import LossMonitor
from numguard.finding import Finding

Array = np.ndarray[Any, np.dtype[np.float64]]


def batch_noise(num_rows: int, seed: int = 0) -> Array:
    """Return the part of the noise that belongs to the batches: the same in every run on them."""
    return np.random.default_rng(seed).standard_t(8, num_rows) * 0.04


def curve(num_rows: int, *, batches: int = 0, seed: int = 1, own: float = 0.003) -> Array:
    """Return a falling loss with batch noise and a little noise of its own."""
    steps = np.arange(num_rows)
    own_noise = np.random.default_rng(seed).normal(0.0, own, num_rows)
    loss: Array = 2.5 + 8.0 * (steps + 30.0) ** -0.35 + batch_noise(num_rows, batches) + own_noise
    return loss


def said(monitor: LossMonitor, losses: Array, start: int = 0, every: int = 1, **channels: Any) -> list[Finding]:
    """Return all findings of a monitor that takes the losses row by row."""
    found: list[Finding] = []
    for row, loss in enumerate(losses.tolist()):
        values = {name: column[row] if hasattr(column, "__len__") else column for name, column in channels.items()}
        found += monitor.update(start + row * every, loss, **values)
    return found


def kinds(found: list[Finding]) -> list[str]:
    return [finding.kind for finding in found]
