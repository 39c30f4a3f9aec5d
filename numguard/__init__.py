"""Finds numerical bugs in large training runs.

Wrap a training loop in :func:`guard`, and call ``g.step(loss)`` once per optimizer step.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from . import detectors as detectors
    from . import functional as functional
    from . import scaling as scaling
    from . import testing as testing
    from .acceptance import AuditReport as AuditReport
    from .acceptance import audit as audit
    from .custom_kernels import shadowed as shadowed
    from .errors import FindingError as FindingError
    from .errors import GuardStateError as GuardStateError
    from .errors import InputError as InputError
    from .errors import NumguardError as NumguardError
    from .errors import UsageError as UsageError
    from .finding import Finding as Finding
    from .session import Coverage as Coverage
    from .session import Guard as Guard
    from .session import Overhead as Overhead
    from .session import SiteCoverage as SiteCoverage
    from .session import guard as guard
    from .verification import Verdict as Verdict
    from .verification import verify as verify

# Loaded at first use: `numguard --version` and `--help` answer without torch, and where torch is broken.
_ROOMS: Final = {
    "AuditReport": "acceptance",
    "Coverage": "session",
    "Finding": "finding",
    "FindingError": "errors",
    "Guard": "session",
    "GuardStateError": "errors",
    "InputError": "errors",
    "NumguardError": "errors",
    "Overhead": "session",
    "SiteCoverage": "session",
    "UsageError": "errors",
    "Verdict": "verification",
    "audit": "acceptance",
    "detectors": "detectors",
    "functional": "functional",
    "guard": "session",
    "scaling": "scaling",
    "shadowed": "custom_kernels",
    "testing": "testing",
    "verify": "verification",
}
__all__ = [*_ROOMS]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f".{_ROOMS[name]}", __name__)
    value = globals()[name] = room if name == _ROOMS[name] else getattr(room, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
