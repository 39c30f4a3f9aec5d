"""The budget: numguard's own time as a share of the run's, on its own clock, over every window of 200 steps."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, process_time
from types import TracebackType

WINDOW = 200  # steps


class OwnClock:
    """Adds up the processor time that numguard's sections take, over all threads that they use.

    Processor time, not wall time: on a machine that is shared, a section that was put aside for another process has
    cost the run nothing more than the run itself would have lost. Waiting that is numguard's own (a slow disk, the
    other ranks) is added apart, by :meth:`waited`. Used as a context manager, which may be entered inside itself.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._began = 0.0

    def __enter__(self) -> "OwnClock":
        if self._depth == 0:
            self._began = process_time()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += process_time() - self._began

    def add(self, seconds: float) -> None:
        """Add a cost that was measured or estimated elsewhere."""
        self.seconds += seconds

    @contextmanager
    def waited(self) -> Iterator[None]:
        """Add the wall time of a block that may wait, less the processor time that is counted anyway."""
        wall, process = perf_counter(), process_time()
        try:
            yield
        finally:
            self.seconds += max(0.0, perf_counter() - wall - (process_time() - process))


class Budget:
    """Own and elapsed seconds of the last 200 steps.

    Parameters
    ----------
    share
        Allowed own seconds per elapsed second; None for no limit.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.elapsed_seconds = 0.0
        self.own_seconds = 0.0
        self.burst_seconds = 0.0
        self._steps: deque[tuple[float, float]] = deque(maxlen=WINDOW - 1)
        self._elapsed = self._own = 0.0

    @property
    def step_seconds(self) -> float:
        """Mean length of a step over the window, own time included; 0 before the first."""
        return self._elapsed / len(self._steps) if self._steps else 0.0

    def end_step(self, elapsed: float, own: float, *, burst: bool = False) -> None:
        """Enter one step. What a burst costs was asked for: it is reported, and not charged to the window."""
        self.elapsed_seconds += elapsed
        self.own_seconds += own
        if burst:
            self.burst_seconds += own
            elapsed, own = max(elapsed - own, 0.0), 0.0
        if len(self._steps) == self._steps.maxlen:
            old_elapsed, old_own = self._steps[0]
            self._elapsed -= old_elapsed
            self._own -= old_own
        self._steps.append((elapsed, own))
        self._elapsed += elapsed
        self._own += own

    def allowance(self, part: float = 1.0) -> float:
        """Return the seconds that may be spent in the coming step without breaking any window that ends with it.

        The coming step itself is taken to last as long as the mean of the window.

        Parameters
        ----------
        part
            Of the budget: what is left free covers shorter steps to come, and what an estimate misses.
        """
        if self.share is None:
            return float("inf")
        return max(0.0, part * self.share * (self._elapsed + self.step_seconds) - self._own)
