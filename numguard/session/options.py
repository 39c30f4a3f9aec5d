"""What a user asks of a guard, checked once and then frozen."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numguard.checks import select
from numguard.detectors import ReferenceRun
from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.interception.regions import DeclaredRegion
from numguard.regions import REFERENCE_FORMS
from numguard.session.earlier_run import reference_of
from numguard.session.registered_trend import RegisteredTrend, trend_of

OnFinding = Literal["log", "raise"] | Callable[[Finding], object]


def is_switched_off() -> bool:
    """Return whether ``NUMGUARD=off`` in the environment makes every entry point a no-op."""
    return os.environ.get("NUMGUARD", "").lower() in ("off", "0", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardOptions:
    """Options of :func:`numguard.guard`, validated.

    Parameters
    ----------
    run_dir
        Where the event log goes; None keeps it in memory.
    budget
        Share of step time; None checks every call of every step.
    checks
        Names or patterns of checks; None for all.
    modules, skip
        Compiled patterns; None for all and none.
    capture
        ``"summary"``, or ``"capsule"`` to keep the inputs of the first call of each finding.
    regions
        Modules that are shadowed whole.
    trend
        Band that the loss was predicted to stay in.
    reference
        Losses of an earlier run.
    """

    run_dir: Path | None = None
    budget: float | None = 0.01
    checks: tuple[str, ...] | None = None
    modules: tuple[re.Pattern[str], ...] | None = None
    skip: tuple[re.Pattern[str], ...] = ()
    on_finding: OnFinding = "log"
    accept: Path | None = None
    seed: int = 0
    capture: str = "summary"
    regions: tuple[DeclaredRegion, ...] = ()
    trend: RegisteredTrend | None = None
    reference: ReferenceRun | None = None

    @property
    def exhaustive(self) -> bool:
        """Whether every call of every step is checked."""
        return self.budget is None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"{name}= got {text!r}, which is not a string; give names or regular expressions")
    return texts


def _path(name: str, value: Any) -> Path | None:
    if value is None:
        return None
    try:
        return Path(os.fsdecode(value))
    except TypeError:
        raise UsageError(f"{name}= got {value!r}, which is not a path; give a string or a pathlib.Path") from None


def _checks(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = _texts("checks", value)
    if not names:
        raise UsageError("checks= is empty: nothing would be checked; leave it out for all checks, or name some")
    select(names, ())  # raises for a name that no check has
    return names


def _patterns(name: str, value: str | Sequence[str] | None) -> tuple[re.Pattern[str], ...] | None:
    if value is None:
        return None
    compiled = []
    for text in _texts(name, value):
        try:
            compiled.append(re.compile(text))
        except re.error as error:
            raise UsageError(
                f"{name}= got {text!r}, which is not a regular expression ({error}); escape it with re.escape"
            ) from None
    return tuple(compiled)


def _budget(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 1:
        raise UsageError(
            f"budget={value!r} is not a share of step time; give a number above 0 and at most 1, for example "
            "budget=0.01 for one percent, or budget=None to check every call of every step"
        )
    return float(value)


def _regions(value: Any) -> tuple[DeclaredRegion, ...]:
    if value is None:
        return ()
    forms = value if isinstance(value, Mapping) else dict.fromkeys(_texts("regions", value))
    if not forms:
        raise UsageError("regions= is empty: no module is shadowed whole; leave it out, or name some")
    patterns = _patterns("regions", tuple(forms)) or ()
    return tuple(
        DeclaredRegion(pattern=pattern, form=_form(pattern.pattern, form))
        for pattern, form in zip(patterns, forms.values(), strict=True)
    )


def _form(pattern: str, form: Any) -> Callable[..., Any] | None:
    if form is None:
        return None
    if isinstance(form, str) and form in REFERENCE_FORMS:
        return REFERENCE_FORMS[form]
    if callable(form):
        chosen: Callable[..., Any] = form
        return chosen
    raise UsageError(
        f"regions={{{pattern!r}: {form!r}}} names no reference form; give one of {', '.join(sorted(REFERENCE_FORMS))}, "
        "or a function of (state, *arguments) that computes in float64"
    )


def make_options(arguments: Mapping[str, Any]) -> GuardOptions:
    """Return validated options.

    Raises
    ------
    UsageError
        With what was given, why it is wrong, and what to type instead.
    InputError
        If the registry of ``trend`` or the log of ``reference`` cannot be used.
    """
    on_finding = arguments["on_finding"]
    if on_finding not in ("log", "raise") and not callable(on_finding):
        raise UsageError(f'on_finding={on_finding!r} is not known; give "log", "raise", or a function of one Finding')
    capture = arguments["capture"]
    if capture not in ("summary", "capsule"):
        raise UsageError(f'capture={capture!r} is not known; give "summary", or "capsule" to keep the inputs')
    if capture == "capsule" and arguments["run_dir"] is None:
        raise UsageError('capture="capsule" needs a place for the capsules; give run_dir=, or capture="summary"')
    seed = arguments["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"seed={seed!r} is not an integer; the same integer must be given on every rank")
    return GuardOptions(
        run_dir=_path("run_dir", arguments["run_dir"]),
        budget=_budget(arguments["budget"]),
        checks=_checks(arguments["checks"]),
        modules=_patterns("modules", arguments["modules"]),
        skip=_patterns("skip", arguments["skip"]) or (),
        on_finding=on_finding,
        accept=_path("accept", arguments["accept"]),
        seed=seed,
        capture=capture,
        regions=_regions(arguments["regions"]),
        trend=trend_of(arguments["trend"]),
        reference=reference_of(arguments["reference"]),
    )
