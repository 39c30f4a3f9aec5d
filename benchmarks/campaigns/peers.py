"""numguard beside what people use today, on the same results: those of right kernels and those of faulty ones.

Run ``python -m benchmarks.campaigns.peers``; it writes ``docs/peers.md``. The faults are those of
``benchmarks/campaigns/injections.py``. Every peer is given the exact value, rounded only to float64, which nobody has
in practice: what it misses or calls wrong then is due to its tolerance alone.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.campaigns.extended_values import require_extended_precision
from benchmarks.campaigns.injection_plan import run, sample
from benchmarks.campaigns.injection_runs import CERTAIN, Case, Exhibit
from benchmarks.campaigns.peers_page import page


def alarms_by_defaults(computed: Tensor, exact: Tensor) -> bool:
    """Return whether ``torch.testing.assert_close`` with its default tolerances fails against the rounded value."""
    try:
        torch.testing.assert_close(computed, exact.to(computed.dtype), equal_nan=True)
    except AssertionError:
        return True
    return False


def alarms_by_float64(computed: Tensor, exact: Tensor) -> bool:
    """Return whether ``torch.allclose`` in float64 with ``rtol=1e-3`` fails."""
    return not torch.allclose(computed.double(), exact, rtol=1e-3, equal_nan=True)


Peer = Callable[[Tensor, Tensor], bool]

PEERS: Final[Mapping[str, Peer]] = {
    "`assert_close`, defaults": alarms_by_defaults,
    "float64, `rtol=1e-3`": alarms_by_float64,
}
NUMGUARD: Final = "numguard"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One fault, as everybody saw it.

    Parameters
    ----------
    name, dtype
        Of the case.
    ratio
        ``|c - v| / B`` of the faulty result.
    certain
        False where the fault lies between B and 2 B, or nearer to B than the shadow's error: nobody is asked.
    on_right, on_wrong
        Who gave an alarm on the result of the right kernel, and on the faulty one.
    """

    name: str
    dtype: str
    ratio: float
    certain: bool
    on_right: frozenset[str]
    on_wrong: frozenset[str]


def contest(case: Case) -> Contest | None:
    """Return who saw what in a case; None where no fault could be made."""
    seen: list[Exhibit] = []
    outcome = run(case, seen.append)
    if outcome.size is None or not seen:
        return None
    exhibit = seen[-1]
    right = {name for name, peer in PEERS.items() if _alarms(peer, exhibit.right, exhibit)}
    wrong = {name for name, peer in PEERS.items() if _alarms(peer, exhibit.wrong, exhibit)}
    right |= {NUMGUARD} if outcome.right > 1.0 else set()
    wrong |= {NUMGUARD} if outcome.verdict in ("found", "misnamed", "false alarm") else set()
    return Contest(
        name=case.name,
        dtype=str(case.dtype)[6:],
        ratio=outcome.ratio,
        certain=outcome.verdict != "between" and (outcome.ratio > CERTAIN or outcome.ratio <= 1.0),
        on_right=frozenset(right),
        on_wrong=frozenset(wrong),
    )


def _alarms(peer: Peer, results: Sequence[Tensor], exhibit: Exhibit) -> bool:
    return any(
        peer(result.reshape(-1), torch.from_numpy(np.asarray(value, dtype=np.float64)).reshape(-1))
        for result, value in zip(results, exhibit.values, strict=True)
        if value is not None
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the contest and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("docs/peers.md"))
    options = parser.parse_args(arguments)
    require_extended_precision()
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)  # hundreds of findings are expected
    began = time.perf_counter()
    contests = [result for case in sample(options.cases) if (result := contest(case)) is not None]
    text = page(contests, (NUMGUARD, *PEERS), seconds=time.perf_counter() - began)
    options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
