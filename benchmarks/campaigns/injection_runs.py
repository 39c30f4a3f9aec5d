"""One case of the campaign: a guarded run of two or more steps, a fault in one of them, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

import numguard
from benchmarks.campaigns.extended_values import VALUES, Wide, wide
from benchmarks.campaigns.injection_patterns import PATTERNS, Situation
from benchmarks.campaigns.injection_sites import MODULE, Net, Site, optimizer_for, spread
from benchmarks.campaigns.injection_thresholds import Bounds, Thresholds, thresholds_of
from numguard.finding import Finding
from numguard.shadow.call import mutated_arguments, tensors_in
from numguard.testing import KernelCall, faulty_kernel

Verdict = Literal["found", "missed", "silent", "false alarm", "between", "misnamed", "no fault"]

FAULTY_STEP: Final = 1
CERTAIN: Final = 2.0  # bounds above which a fault has to be found

_ALARMING: Final = frozenset({"degraded", "wrong_result", "corruption"})
_LOCATION: Final = "benchmarks/campaigns/injection_sites.py:"


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
class Size:
    """How wrong a result is.

    Parameters
    ----------
    ratio
        The largest ``|c - v| / B``.
    relative_bound
        ``B / |v|`` of that element.
    decided
        False where some element is nearer to B than the error of the shadow, so that either verdict is right.
    """

    ratio: float
    relative_bound: float
    decided: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a case.

    Parameters
    ----------
    size
        Of the elements that the fault changed; None where it changed nothing.
    right
        ``|c - v| / B`` of the result before the fault, which a right kernel keeps below one.
    detail
        What the guard said, where that was not what it had to say.
    """

    case: Case
    verdict: Verdict
    size: Size | None = None
    right: float = 0.0
    detail: str = ""

    @property
    def ratio(self) -> float:
        """Return ``|c - v| / B``."""
        return self.size.ratio if self.size is not None else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """A faulty call as others may judge it: the results of the right kernel, the wrong ones, and the exact values.

    ``values`` is None for results of which no exact value is known.
    """

    right: tuple[Tensor, ...]
    wrong: tuple[Tensor, ...]
    values: tuple[Wide | None, ...]


Witness = Callable[[Exhibit], object]


@dataclass(slots=True)
class _Injector:
    """Decides which calls go wrong and how, and keeps what it did."""

    case: Case
    witness: Witness | None = None
    window: str = ""
    step: int = 0
    sizes: list[Size] = field(default_factory=list)
    right: float = 0.0
    _shapes: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    _stale: tuple[Tensor, ...] = ()

    def wants(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether a call is the one of the site, and note its shapes in the clean step."""
        if self.window != self.case.site.phase:
            return False
        shapes = tuple(tuple(t.shape) for value in arguments.values() for t in tensors_in(value))
        if self.step < FAULTY_STEP and shapes not in self._shapes:
            self._shapes.append(shapes)
        which = self.case.site.which
        if len(self._shapes) <= which or shapes != self._shapes[which]:
            return False
        return self.step < FAULTY_STEP or (self.step == FAULTY_STEP and not (self.case.transient and self.sizes))

    def corrupt(self, call: KernelCall) -> None:
        """Write the proposal whose size is nearest to the target; in the clean step only remember the results."""
        if self.step < FAULTY_STEP:
            self._stale = tuple(result.detach().clone() for result in call.results)
            return
        bounds = thresholds_of(call)
        values = VALUES[self.case.site.faulty](call.before)
        right = [result.detach().clone() for result in call.results]
        self.right = max(self.right, _worst(right, values, bounds.lenient))
        situation = Situation(
            call=call,
            site=self.case.site,
            stale=self._stale,
            judged=bounds.judged(),
            random=np.random.default_rng(self.case.seed),
        )
        proposals = [
            (size, wrong)
            for wrong in PATTERNS[self.case.pattern](situation)
            if (size := _size(right, wrong, values, bounds)) is not None
        ]
        if not proposals:
            return
        size, wrong = min(proposals, key=lambda proposal: _distance(proposal[0].ratio, self.case.target))
        for result, elements in zip(call.results, wrong, strict=True):
            result.copy_(elements.reshape(result.shape))
        self.sizes.append(size)
        if self.witness is not None:
            changed = tuple(result.detach().clone() for result in call.results)
            self.witness(Exhibit(right=tuple(right), wrong=changed, values=tuple(values)))


def _distance(ratio: float, target: float) -> float:
    """Return how far a size is from the target, in powers of e; on the wrong side of certainty it is far."""
    if ratio == target:
        return 0.0
    if not 0.0 < ratio < np.inf:
        return 1e9
    return float(abs(np.log(ratio / target))) + (100.0 if (ratio > CERTAIN) != (target > CERTAIN) else 0.0)


def _ratios(computed: Wide, value: Wide, bound: Bounds) -> Wide:
    """Return ``|c - v| / B`` element by element: infinite for NaN, zero where nothing can be said."""
    with np.errstate(all="ignore"):
        error = np.abs(computed - value)
        ratios = np.where(error > 0.0, error / bound, 0.0)
    ratios[np.isnan(error)] = np.inf
    ratios[~(bound < np.inf)] = 0.0
    return ratios


def _worst(results: Sequence[Tensor], values: Sequence[Wide | None], bounds: Sequence[Bounds]) -> float:
    parts = [
        _ratios(wide(result).reshape(-1), value.reshape(-1), bound)
        for result, value, bound in zip(results, values, bounds, strict=True)
        if value is not None
    ]
    return max(float(part.max(initial=0.0)) for part in parts)


def _size(
    right: Sequence[Tensor], wrong: Sequence[Tensor], values: Sequence[Wide | None], bounds: Thresholds
) -> Size | None:
    """Return the size of the largest error among the elements that differ from the right result; None for none."""
    largest, decided = None, True
    for one, other, value, bound, share in zip(right, wrong, values, bounds.alarm, bounds.shadow, strict=True):
        computed, clean = wide(other).reshape(-1), wide(one).reshape(-1)
        changed = np.flatnonzero(~((computed == clean) | (np.isnan(computed) & np.isnan(clean))))
        if value is None or not changed.size:
            continue
        exact = value.reshape(-1)[changed]
        ratios = _ratios(computed[changed], exact, bound[changed])
        worst = int(ratios.argmax())
        with np.errstate(all="ignore"):
            decided &= not bool((np.abs(np.abs(computed[changed] - exact) - bound[changed]) <= share[changed]).any())
        if largest is None or ratios[worst] > largest.ratio:
            with np.errstate(all="ignore"):
                relative = float(bound[changed][worst] / np.abs(exact[worst]))
            largest = Size(ratio=float(ratios[worst]), relative_bound=relative, decided=True)
    return None if largest is None else replace(largest, decided=decided or largest.ratio > CERTAIN)


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
    detached: Tensor = loss.detach()
    return detached


def run_case(case: Case, witness: Witness | None = None) -> Outcome:
    """Run one case from a fresh model to the verdict; a witness is shown what the fault did."""
    generator = torch.Generator().manual_seed(case.seed)
    net = case.site.net(case.dtype, generator)
    optimizer = optimizer_for(case.site, net, case.dtype)
    injector = _Injector(case, witness)

    def enter(window: str) -> None:
        injector.window = window

    site = net.get_submodule(MODULE)
    site.register_forward_pre_hook(lambda *_: enter("forward"))
    site.register_forward_hook(lambda *_: enter(""))
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


def _is_right(case: Case, finding: Finding) -> bool:
    """Tell whether a finding names the kind, the operator, the place and the step of the fault."""
    site = case.site
    named = (finding.kind, finding.op, finding.module, finding.phase)
    return (
        finding.severity == "error"
        and finding.confirmed != "no"
        and named == (_expected_kind(case), site.op, site.module, site.phase)
        and finding.first_caught_step == FAULTY_STEP
        and (case.armed or finding.last_clean_step == FAULTY_STEP - 1)
        and (site.phase == "optimizer" or (finding.location or "").startswith(_LOCATION))
    )


def _told(finding: Finding) -> str:
    steps = f"caught {finding.first_caught_step}, clean {finding.last_clean_step}"
    return f"{finding.kind} of {finding.op} in {finding.module!r}, {finding.phase}, {steps}: {finding.message}"


def _judged(case: Case, injector: _Injector, findings: Sequence[Finding]) -> Outcome:
    if not injector.sizes:
        return Outcome(case=case, verdict="no fault", right=injector.right)
    alarms = [finding for finding in findings if finding.severity == "error" or finding.kind in _ALARMING]
    ratio, verdict, detail = injector.sizes[0].ratio, "found", "; ".join(_told(finding) for finding in alarms)
    if ratio <= 1.0 and injector.sizes[0].decided:
        verdict = "false alarm" if alarms else "silent"
    elif ratio <= CERTAIN:
        verdict = "between"
    elif not alarms:
        verdict = "missed"
    elif not all(_is_right(case, finding) for finding in alarms):
        verdict = "misnamed"
    good = verdict in ("found", "silent", "between")
    return Outcome(
        case=case,
        verdict=verdict,  # type: ignore[arg-type]
        size=injector.sizes[0],
        right=injector.right,
        detail="" if good else detail,
    )
