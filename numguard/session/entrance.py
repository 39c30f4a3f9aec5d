"""The way in: what a user calls."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.session.guarded_loop import Guard
from numguard.session.ingredients import checked_optimizers
from numguard.session.options import make_options


def guard(
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    budget: float | None = 0.01,
    checks: str | Sequence[str] | None = None,
    modules: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    regions: Any = None,
    on_finding: str | Callable[[Finding], object] = "log",
    trend: Any = None,
    reference: Any = None,
    accept: str | os.PathLike[str] | None = None,
    capture: str = "summary",
    seed: int = 0,
) -> Guard:
    """Return a guard to wrap around a training loop, which stays bitwise the same; ``NUMGUARD=off`` makes it a no-op.

    Parameters
    ----------
    model, optimizer
        What is trained, compiled, DDP and FSDP models too; None leaves modules unnamed. One optimizer, or several.
    run_dir
        Directory of event log and report; None keeps both in memory. Another start there is a new attempt of the run.
    budget
        Share of step time that numguard may spend over every window of 200 steps. None checks every call of every step.
    checks, modules, skip
        Regular expressions: only checks whose whole name matches, only modules whose name contains a match, and
        neither checks nor modules whose whole name matches.
    on_finding
        ``"log"``; ``"raise"``, from ``g.step`` for an ``error``; or a function of one finding, called from ``g.step``.
    accept, capture
        TOML file of accepted fingerprints: counted, not reported. ``"summary"`` keeps no tensor values, ``"capsule"``
        the inputs of the first call of each finding, for ``numguard replay``: private data, readable by their owner.
    seed
        Picks the armed steps and the calls that are checked; the same on every rank.
    regions
        Modules to shadow whole beside those that compute something themselves: regular expressions that match whole
        names, or a mapping from such to a reference form, a name in :data:`numguard.regions.REFERENCE_FORMS` or a
        function of ``(state, *arguments)`` in float64; ``state`` holds parameters, buffers and plain numbers.
    trend
        The loss as it was predicted, along ``step`` or ``tokens``: from :func:`numguard.scaling.register` or
        ``registered``, the path of a registry that holds one prediction, or a fit of ``AnnealingLaw`` or
        ``MultiPowerLaw`` that was given this run's planned steps and learning rates with a loss of NaN.
    reference
        An earlier run of the same recipe on the same batches, whose noise is subtracted so that a slow drift shows: its
        ``run_dir``, or a log that ``numguard curve`` reads. Where the batches differ, it is left out, and that is said.

    Returns
    -------
    Guard
        A context manager; call its ``step(loss)`` once per optimizer step.

    Raises
    ------
    UsageError
        For an option that does not exist or cannot be: says what to type instead.
    InputError
        If a file that is read is damaged.

    Examples
    --------
    >>> import torch, numguard
    >>> model = torch.nn.Linear(4, 1)
    >>> with numguard.guard(model, torch.optim.SGD(model.parameters(), lr=0.1)) as g:
    ...     loss = model(torch.ones(2, 4)).square().mean()
    ...     loss.backward()
    ...     g.step(loss)
    """
    kept = {"run_dir": run_dir, "budget": budget, "capture": capture, "seed": seed}
    watched = {"checks": checks, "modules": modules, "skip": skip, "regions": regions}
    told = {"on_finding": on_finding, "trend": trend, "reference": reference, "accept": accept}
    options = make_options({**kept, **watched, **told})
    if model is not None and not isinstance(model, torch.nn.Module):
        raise UsageError(f"model= got a {type(model).__name__}; give a torch.nn.Module, or None")
    return Guard(options, model=model, optimizers=checked_optimizers(optimizer))
