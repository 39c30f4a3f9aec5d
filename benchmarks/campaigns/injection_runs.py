"""One case of the campaign: a guarded run of two or more steps, a fault in one of them, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

import numguard
from benchmarks.campaigns.extended_values import VALUES, Wide, wide
from benchmarks.campaigns.injection_patterns import PATTERNS, Situation
from benchmarks.campaigns.injection_sites import Net, Site, optimizer_for, spread
from benchmarks.campaigns.injection_thresholds import Bounds, thresholds
from numguard.finding import Finding
from numguard.shadow.call import mutated_arguments, tensors_in
from numguard.testing import KernelCall, faulty_kernel

Verdict = Literal["found", "missed", "silent", "false alarm", "between", "misnamed", "no fault"]

FAULTY_STEP: Final = 1
CERTAIN: Final = 2.0  # bounds above which a fault has to be found


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One injection.

    Parameters
    ----------
    target
        Size that is looked for among the places where the fault may act, in bounds.
    transient
        The fault acts in one execution only: running the operator again gives the right result.
    armed
        The guard has its default budget, and the faulty step is asked for by ``g.arm``; otherwise every call of
        every step is checked.
    """

    site: Site
    dtype: torch.dtype
    pattern: str
    target: float
    transient: bool
    armed: bool
    seed: int

    @property
    def name(self) -> str:
        """Short, for the test's id."""
        how = ("once" if self.transient else "always") + (", armed" if self.armed else "")
        return f"{self.site.name}, {str(self.dtype)[6:]}, {self.pattern}, {self.target:g} B, {how}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a case: ``ratio`` is the largest ``|c - v| / B`` among the elements that the fault changed."""

    case: Case
    verdict: Verdict
    ratio: float
    detail: str = ""


@dataclass(slots=True)
class _Injector:
    """Decides which calls go wrong and how, and keeps what |c - v| / B it made."""

    case: Case
    window: str = ""
    step: int = 0
    ratios: list[float] = field(default_factory=list)
    shadow_ratio: float = 0.0
    _shapes: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    _stale: tuple[Tensor, ...] = ()

    def wants(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether a call is the one of the site, and note its shapes in the clean step."""
        if self.window != self.case.site.phase:
            return False
        shapes = tuple(tuple(t.shape) for value in arguments.values() for t in tensors_in(value))
        if self.step < FAULTY_STEP and shapes not in self._shapes:
            self._shapes.append(shapes)
        if shapes != self._shapes[self.case.site.which]:
            return False
        return self.step < FAULTY_STEP or (self.step == FAULTY_STEP and not (self.case.transient and self.ratios))

    def corrupt(self, call: KernelCall) -> None:
        """Write the proposal whose size is nearest to the target; in the clean step only remember the results."""
        if self.step < FAULTY_STEP:
            self._stale = tuple(result.detach().clone() for result in call.results)
            return
        bounds = thresholds(call)
        values = VALUES[self.case.site.faulty](call.before)
        situation = Situation(
            call=call,
            site=self.case.site,
            stale=self._stale,
            judged=[n for n, b in enumerate(bounds) if values[n] is not None and bool((b > 0.0).any() | (b == 0.0).any())],
            random=np.random.default_rng(self.case.seed),
        )
        right = [result.detach().clone() for result in call.results]
        proposals = [
            (ratio, wrong)
            for wrong in PATTERNS[self.case.pattern](situation)
            if (ratio := _largest_ratio(right, wrong, values, bounds)) is not None
        ]
        if not proposals:
            return
        ratio, wrong = min(proposals, key=lambda proposal: _distance(proposal[0], self.case.target))
        for result, values_of in zip(call.results, wrong, strict=True):
            result.copy_(values_of.reshape(result.shape))
        self.ratios.append(ratio)


def _distance(ratio: float, target: float) -> float:
    """Return how far a size is from the target, in powers of e; on the wrong side of certainty it is far."""
    if ratio == target:
        return 0.0
    if not 0.0 < ratio < np.inf:
        return 1e9
    return float(abs(np.log(ratio / target))) + (100.0 if (ratio > CERTAIN) != (target > CERTAIN) else 0.0)


def _largest_ratio(
    right: Sequence[Tensor], wrong: Sequence[Tensor], values: Sequence[Wide | None], bounds: Sequence[Bounds]
) -> float | None:
    """Return the largest ``|c - v| / B`` of the elements that differ from the right result; None where none does."""
    largest = None
    for one, other, value, bound in zip(right, wrong, values, bounds, strict=True):
        c, clean = wide(other).reshape(-1), wide(one).reshape(-1)
        changed = ~((c == clean) | (np.isnan(c) & np.isnan(clean)))
        if value is None or not changed.any():
            continue
        with np.errstate(all="ignore"):
            error = np.abs(c - value.reshape(-1))[changed]
            ratios = np.where(np.isnan(error), np.inf, error / bound[changed])
        ratios[np.isinf(bound[changed])] = 0.0
        largest = max(largest or 0.0, float(np.nanmax(ratios, initial=0.0)))
    return largest


def _inputs(case: Case, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * case.seed + step)
    return torch.randn(12, 9, generator=generator, dtype=torch.float64).to(case.dtype)


def _train_step(
    net: Net, optimizer: torch.optim.Optimizer, x: Tensor, enter: Callable[[str], None], seed: int
) -> Tensor:
    enter("")
    out = net(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = weights * spread(out.dtype, torch.Generator().manual_seed(seed + 1), *out.shape).double()
    loss = (out * weights.to(out.dtype)).to(torch.promote_types(out.dtype, torch.float32)).sum()
    enter("backward")
    loss.backward()
    enter("optimizer")
    torch.nn.utils.clip_grad_norm_([p for p in net.parameters() if p.grad is not None], 1e4, foreach=True)
    optimizer.step()
    enter("")
    optimizer.zero_grad()
    return loss.detach()


def run_case(case: Case) -> Outcome:
    """Run one case from a fresh model to the verdict."""
    generator = torch.Generator().manual_seed(case.seed)
    net = case.site.net(case.dtype, generator)
    optimizer = optimizer_for(case.site, net, case.dtype)
    injector = _Injector(case)

    def enter(window: str) -> None:
        injector.window = window

    net.block.site.register_forward_pre_hook(lambda *_: enter("forward"))
    net.block.site.register_forward_hook(lambda *_: enter(""))
    guard = numguard.guard(net, optimizer, budget=0.01 if case.armed else None, on_finding=_nothing, seed=case.seed)
    with faulty_kernel(case.site.faulty, injector.corrupt, when=injector.wants), guard as g:
        for step in range(FAULTY_STEP + 1):
            injector.step = step
            if case.armed and step == FAULTY_STEP - 1:
                g.arm(1)
            g.step(_train_step(net, optimizer, _inputs(case, step), enter, case.seed + step))
    return _judged(case, injector, guard.findings)


def _nothing(finding: Finding) -> None:
    """Findings are read after the run."""


def _expected_kind(case: Case) -> str:
    """A fault that does not come back is the machine's; an operator that overwrites its input cannot be run again."""
    overload = case.site.op.removeprefix("aten::").partition(".")
    packet = getattr(torch.ops.aten, overload[0])
    again = not mutated_arguments(getattr(packet, overload[2] or "default"))
    return "corruption" if case.transient and again else "wrong_result"


def _judged(case: Case, injector: _Injector, findings: Sequence[Finding]) -> Outcome:
    if not injector.ratios:
        return Outcome(case=case, verdict="no fault", ratio=0.0)
    ratio = injector.ratios[0]
    alarms = [f for f in findings if f.severity == "error" or f.kind in ("degraded", "wrong_result", "corruption")]
    told = "; ".join(f"{f.kind} {f.op} {f.module!r} {f.phase} step {f.first_caught_step} {f.message}" for f in alarms)
    if ratio <= 1.0:
        return Outcome(case=case, verdict="false alarm" if alarms else "silent", ratio=ratio, detail=told)
    if ratio <= CERTAIN:
        return Outcome(case=case, verdict="between", ratio=ratio)
    if not alarms:
        return Outcome(case=case, verdict="missed", ratio=ratio, detail=f"{len(injector.ratios)} firings")
    right = all(
        f.severity == "error"
        and (f.kind, f.op, f.module, f.phase) == (_expected_kind(case), case.site.op, case.site.module, case.site.phase)
        and f.first_caught_step == FAULTY_STEP
        and (case.site.phase == "optimizer" or (f.location or "").startswith("benchmarks/campaigns/injection_sites.py"))
        for f in alarms
    )
    return Outcome(case=case, verdict="found" if right else "misnamed", ratio=ratio, detail="" if right else told)
