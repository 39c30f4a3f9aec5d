"""The earlier run that a user names as the reference of this one."""

import logging
import os
from typing import Any

from numguard.detectors import ReferenceRun
from numguard.errors import UsageError
from numguard.records.loss_logs import LossLog, read_loss_log

log = logging.getLogger("numguard")


def reference_of(value: Any) -> ReferenceRun | None:
    """Return the losses of an earlier run, step by step.

    Parameters
    ----------
    value
        The path of a log or of a ``run_dir``; a log that was read; a :class:`~numguard.detectors.ReferenceRun`; None.

    Raises
    ------
    UsageError
        For anything else, and for a log of several runs.
    InputError
        If nothing of the log can be used.
    """
    if value is None or isinstance(value, ReferenceRun):
        return value
    if not isinstance(value, LossLog):
        try:
            path = os.fsdecode(value)
        except TypeError:
            raise UsageError(
                f"reference= got a {type(value).__name__}; give the path of an earlier run's log or of its run_dir"
            ) from None
        value = read_loss_log(path)
    if value.damage:
        log.warning("reference %s: %s; the rest is used", value.path, value.damage.describe())
    runs = value.runs
    if len(runs) > 1:
        raise UsageError(
            f"reference= got {value.path!r}, which holds {len(runs)} runs ({', '.join(runs[:4])}); give the log of one"
        )
    steps, losses, batches = value.rows()
    return ReferenceRun.of(steps, losses, batches, name=os.path.basename(value.path.rstrip("/")) or value.path)
