"""Regions on the guard: what is watched, what is found, and how it is told."""

import math
from collections.abc import Callable, Container, Mapping, Sequence

import torch

from numguard.interception.boundaries import unwrapped
from numguard.interception.budget import OwnClock
from numguard.interception.mode import ArmedMode
from numguard.interception.region_watch import RegionWatch
from numguard.interception.regions import DeclaredRegion, RegionSite, region_sites
from numguard.regions import RegionVerdict
from numguard.session.coverage import SiteCoverage

_EXTENTS = {
    "own": "the operators that it runs itself",
    "whole": "the module with its children",
    "form": "the module against its reference form",
    "script": "what the training script computes from the model's result",
}


class Regions:
    """The regions of one guarded run.

    Parameters
    ----------
    model
        The guarded model; None watches nothing.
    names
        Qualified names by ``id`` of the module.
    declared
        What the user wants shadowed whole.
    may_wrap
        Tells numguard's own calls among those that are set on modules.
    is_sound
        Tells whether every operator that was checked in a step was right: else a region is no region's fault.
    admits
        Tells from a module's name whether the user wants it looked at.
    clock, enter, fault, seed
        Take cost, findings and faults; picks the random changes.
    on_host
        Whether the model lies in host memory: to judge a region is to read its numbers.
    at_budget
        Whether regions wait for their turn; an exhaustive guard looks at each that runs.
    checked
        Operators that have a check of their own.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module | None,
        names: dict[int, str],
        declared: Sequence[DeclaredRegion],
        may_wrap: Callable[[object], bool],
        is_sound: Callable[[int], bool],
        admits: Callable[[str], bool],
        clock: OwnClock,
        enter: Callable[..., None],
        fault: Callable[[str, BaseException], None],
        seed: int,
        on_host: bool,
        at_budget: bool,
        checked: Container[torch._ops.OpOverload],
    ) -> None:
        self._enter, self._is_sound, self._at_budget = enter, is_sound, at_budget
        self._watch: RegionWatch | None = None
        self._unwatched: dict[str, int] = {}
        if model is None:
            return
        if not on_host:
            self._unwatched = {"regions: to judge one would wait for the accelerator": 1}
            return
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            self._unwatched = {"regions: the model is compiled": 1}
            return
        root = unwrapped(model)
        sites = [site for site in region_sites(root, names, declared) if admits(site.name)]
        self._watch = RegionWatch(
            sites=sites,
            root=root,
            may_wrap=may_wrap,
            clock=clock,
            report=self._report,
            fault=fault,
            seed=seed,
            checked=checked,
        )

    def begin(self, mode: ArmedMode, step: int, seconds: float, exhaustive: bool) -> None:
        """Watch regions in an armed step whose mode has been entered."""
        if self._watch is not None:
            self._watch.begin(mode, step, seconds, exhaustive=exhaustive)

    def cost(self, seconds: float) -> float:
        """Return what the regions of an armed step would cost that fit into so many seconds."""
        return self._watch.cost(seconds) if self._watch is not None else 0.0

    def end(self) -> None:
        """Stop before the step is left."""
        if self._watch is not None:
            self._watch.end()

    def _report(self, site: RegionSite, verdict: RegionVerdict, step: int) -> None:
        if not self._is_sound(step):
            return
        self._enter(
            "unstable_region",
            (site.name, site.extent, verdict.dtype),
            op="",
            module="" if site.extent == "script" else site.name,
            phase="forward",
            location=site.location,
            first_caught_step=step,
            last_clean_step=site.last_clean_step,
            checked=site.num_checked,
            forward_error=verdict.error,
            error_bound=verdict.change,
            ratio=verdict.ratio,
            message=_message(site, verdict),
            advice=(
                "Rewrite it in a form that does not cancel or overflow (two-pass variance, log_softmax, a maximum that "
                "is subtracted first), or run it in float32."
            ),
            evidence={
                "extent": _EXTENTS[site.extent],
                "computed": verdict.computed,
                "exact": verdict.exact,
                "result": verdict.result,
                "worst_index": verdict.index,
                "dtype": verdict.dtype,
                "num_elements": verdict.num_elements,
                "num_suspicious": verdict.num_suspicious,
            },
        )

    # -- coverage ----------------------------------------------------------------------------------------------

    def uncovered(self) -> Mapping[str, int]:
        """Return why regions could not be judged, with how often."""
        if self._watch is None:
            return self._unwatched
        reasons = dict(self._watch.uncovered)
        waiting = sum(not site.num_checked for site in self._watch.sites) if self._at_budget else 0
        return reasons | ({"regions: not looked at yet within the budget": waiting} if waiting else {})

    def coverage(self, num_steps: int) -> tuple[SiteCoverage, ...]:
        """Return what was looked at, in the form that operators have."""
        sites = self._watch.sites if self._watch is not None else ()
        return tuple(_coverage(site, num_steps) for site in sites if site.num_checked)


def _message(site: RegionSite, verdict: RegionVerdict) -> str:
    subject = "The training script" if site.extent == "script" else f"{site.kind} {site.name}"
    where = f" ({site.location})" if site.location else ""
    by_form = site.extent == "form"
    other = "its reference form returns" if by_form else "the same operators in float64 return"
    ratio = f"{verdict.ratio:.3g} times" if math.isfinite(verdict.ratio) else "out of all proportion to"
    why = "" if by_form else " No check has found an operator of it wrong: their sequence loses the digits."
    return (
        f"{subject}{where} returned {verdict.computed:.9g} ({verdict.result}, {verdict.dtype}) where {other} "
        f"{verdict.exact:.9g}. The error {verdict.error:.3g} is {ratio} the {verdict.change:.3g} that one-ulp changes "
        f"of its inputs explain.{why}"
    )


def _coverage(site: RegionSite, num_steps: int) -> SiteCoverage:
    return SiteCoverage(
        op=f"region ({site.extent})",
        module=site.name,
        location=site.location,
        phase="forward",
        dtype="",
        shape="",
        seen=site.num_seen,
        checked=site.num_checked,
        mean_ratio=0.0,
        worst_ratio=site.worst_ratio,
        worst_strict_ratio=site.worst_ratio,
        detectable_rate=1.0 - 0.05 ** (1.0 / site.num_checked),
        checks_per_step=site.num_checked / max(1, num_steps),
        calls_per_step=1.0,
    )
