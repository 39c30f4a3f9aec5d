"""The page that shows who missed what, and who gave false alarms."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch


class Contested(Protocol):
    """What the page reads of one contest."""

    @property
    def dtype(self) -> str:
        """Dtype of the case."""

    @property
    def ratio(self) -> float:
        """Error over bound of the faulty result."""

    @property
    def certain(self) -> bool:
        """Whether it can be said who is right."""

    @property
    def on_right(self) -> frozenset[str]:
        """Who gave an alarm on the right result."""

    @property
    def on_wrong(self) -> frozenset[str]:
        """Who gave an alarm on the faulty result."""


_HEAD = """# Held against what people use today

Written by `python -m benchmarks.campaigns.peers` on {date}, torch {torch}, {seconds:.0f} seconds.

The results are those of `docs/injections.md`: {count:,} calls inside small training steps, each once by the right
kernel of this PyTorch and once with a fault of known size. `v` is the exact value, `B` the bound that a correct
implementation meets, with the accumulation that this build was observed to use.

- A **miss** is a fault above 2 B without an alarm. numguard is asked inside its guard, where it knows neither v nor
  where the fault is.
- A **false alarm** is an alarm on the right kernel's result, or on a fault at or below B, which rounding explains.
- The others are given v itself, rounded to float64, and look at every element of the result:
  `torch.testing.assert_close` with its default tolerances for the dtype (v rounded to that dtype), and
  `torch.allclose` in float64 with `rtol=1e-3`. In practice they have a second implementation at best, whose own error
  comes on top.
- {uncertain} faults between B and 2 B count for nobody.
"""


def page(contests: Sequence[Contested], names: Sequence[str], *, seconds: float) -> str:
    """Return the page in Markdown."""
    certain = [contest for contest in contests if contest.certain]
    head = _HEAD.format(
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        seconds=seconds,
        count=len(contests),
        uncertain=len(contests) - len(certain),
    )
    faults = [contest for contest in certain if contest.ratio > 1.0]
    rounding = [contest for contest in certain if contest.ratio <= 1.0]
    rows = [_row(name, faults, rounding, contests) for name in names]
    header = ("", f"misses of {len(faults):,} faults")
    header += (f"false alarms on {len(contests):,} right results", f"false alarms on {len(rounding):,} faults below B")
    parts = [head, _table(header, rows), "## Misses by size of the fault\n", _by_size(faults, names)]
    return "\n".join([*parts, "## By dtype\n", _by_dtype(contests, names)])


def _row(
    name: str, faults: Sequence[Contested], rounding: Sequence[Contested], every: Sequence[Contested]
) -> tuple[object, ...]:
    return (
        name,
        f"**{sum(name not in fault.on_wrong for fault in faults):,}**",
        f"**{sum(name in contest.on_right for contest in every):,}**",
        f"**{sum(name in contest.on_wrong for contest in rounding):,}**",
    )


def _by_size(faults: Sequence[Contested], names: Sequence[str]) -> str:
    limits = ((2.0, 10.0), (10.0, 100.0), (100.0, 1e4), (1e4, float("inf")))
    rows = []
    for low, high in limits:
        some = [fault for fault in faults if low < fault.ratio <= high]
        misses = (sum(name not in fault.on_wrong for fault in some) for name in names)
        rows.append((f"{low:g} B to {high:g} B", len(some), *misses))
    return _table(("error", "faults", *names), rows)


def _by_dtype(contests: Sequence[Contested], names: Sequence[str]) -> str:
    rows = []
    for dtype in dict.fromkeys(contest.dtype for contest in contests):
        some = [contest for contest in contests if contest.dtype == dtype]
        faults = [contest for contest in some if contest.certain and contest.ratio > 1.0]
        cells = (
            f"{sum(name not in fault.on_wrong for fault in faults)} of {len(faults)}, "
            f"{sum(name in contest.on_right for contest in some)} of {len(some)}"
            for name in names
        )
        rows.append((dtype, *cells))
    return "Misses, and false alarms on right results.\n\n" + _table(("dtype", *names), rows)


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"
