"""Checks on demand: every call of a block is checked inside a guard, armed step or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.utils._python_dispatch import _get_current_dispatch_mode

from numguard.interception.mode import ArmedMode
from numguard.session.arming import LOOK_SECONDS

if TYPE_CHECKING:
    from numguard.session.run import Run


def follow(run: "Run", step: int) -> None:
    """Tell a run that looks on demand which step it is: only armed steps are announced to it."""
    if run.arming.mode is None and run.inspector.step != step:
        run.inspector.begin_step(step, exhaustive=False)


@contextmanager
def every_call(run: "Run", step: int) -> Iterator[None]:
    """Check every call of every checked operator inside the block, and enter what is found in the run.

    In an armed step the mode that is there takes every call; in any other step a mode is entered for the block, but
    not inside a dispatch mode of somebody else's.

    Parameters
    ----------
    run
        The run that looks.
    step
        Number of the present step.
    """
    inspector, mode = run.inspector, run.arming.mode
    if mode is not None and (inspector.exhaustive or not mode.active):  # all of it is checked, or none may be
        yield
        return
    if mode is None and _get_current_dispatch_mode() is not None:  # somebody's mode would see the shadows, too
        yield
        return
    follow(run, step)
    restore = inspector.begin_private()
    try:
        if mode is not None:
            yield
            return
        looked_at = inspector.num_looked_at
        try:
            with ArmedMode(inspector.table, inspector.observe):
                yield
        finally:
            run.clock.add((inspector.num_looked_at - looked_at) * LOOK_SECONDS)
            inspector.num_looked_at = looked_at
            for site in run.sites:  # how often a site is called in an armed step is counted in armed steps
                site.calls_in_step = 0
    finally:
        restore()
