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
    """Return a guard to wrap around a training loop.

    Parameters
    ----------
    model
        The model that is trained, for names and for the block in which a NaN is born. Compiled, DDP and FSDP models
        too. None leaves modules unnamed.
    optimizer
        The optimizer, or several.
    run_dir
        Directory of event log and report; None keeps both in memory. Another start there is a new attempt of the run.
    budget
        Share of step time that numguard may spend, on its own clock, over every window of 200 steps. None checks
        every call of every checked operator of every step.
    checks
        Names of checks, or regular expressions that match whole names; None for all.
    modules, skip
        Regular expressions: only modules whose name contains a match; neither checks nor modules whose whole name
        matches.
    on_finding
        ``"log"``; ``"raise"`` raises :class:`~numguard.errors.FindingError` from ``g.step`` for findings of severity
        ``error``; or a function of one :class:`~numguard.finding.Finding`, called from ``g.step``.
    accept
        TOML file of accepted fingerprints: counted, not reported.
    capture
        ``"summary"`` records statistics and shapes, no tensor values. ``"capsule"`` also keeps the inputs of the first
        call of each finding, for ``numguard replay``: private data, readable by their owner only.
    seed
        Picks the armed steps and the calls that are checked. The same on every rank.
    regions
        Modules to shadow whole, their children included: regular expressions that match whole names, or a mapping from
        such to a reference form: one of the names in :data:`numguard.regions.REFERENCE_FORMS`, or a function of
        ``(state, *arguments)`` that computes in float64 what the module should return; ``state`` holds its
        parameters, buffers and plain numbers. What every module computes itself, and what the script computes from the
        model's result, is looked at without being asked for.
    trend
        The loss as it was predicted before the run, along ``step`` or along ``tokens``, which
        ``g.step(loss, tokens=...)`` then has to tell: what :func:`numguard.scaling.register` or
        :func:`numguard.scaling.registered` returned, or the path of a registry that holds one prediction; also a fit
        of ``AnnealingLaw`` or ``MultiPowerLaw`` that was given this run's planned steps and learning rates, with a loss
        of NaN. A loss that leaves the band is an ``off_trend`` finding.
    reference
        An earlier run of the same recipe on the same batches, whose noise is subtracted so that a slow drift shows: its
        ``run_dir``, or a log that ``numguard curve`` reads. Where the batches differ, that is said, and it is left out.

    Returns
    -------
    Guard
        A context manager; call its ``step(loss)`` once per optimizer step.

    Raises
    ------
    UsageError
        For an option that does not exist or cannot be: says what to type instead.
    InputError
        If the file of accepted fingerprints, the registry or the log of the earlier run is damaged.

    Notes
    -----
    Loss, gradients, parameters and random numbers are those of the bare run, bit for bit, wherever the bare run
    repeats itself. ``NUMGUARD=off`` in the environment turns every guard into a no-op.

    Examples
    --------
    >>> import torch, numguard
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with numguard.guard(model, optimizer) as g:
    ...     for _ in range(3):
    ...         loss = model(torch.ones(2, 4)).square().mean()
    ...         loss.backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...         g.step(loss)
    >>> [finding for finding in g.findings if finding.severity == "error"]
    []
    """
    options = make_options(
        {
            "run_dir": run_dir,
            "budget": budget,
            "checks": checks,
            "modules": modules,
            "skip": skip,
            "regions": regions,
            "on_finding": on_finding,
            "trend": trend,
            "reference": reference,
            "accept": accept,
            "capture": capture,
            "seed": seed,
        }
    )
    if model is not None and not isinstance(model, torch.nn.Module):
        raise UsageError(f"model= got a {type(model).__name__}; give a torch.nn.Module, or None")
    return Guard(options, model=model, optimizers=checked_optimizers(optimizer))
