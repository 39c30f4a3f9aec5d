"""What was wrong with the input of a report: counts, and the first places where it was."""

from dataclasses import dataclass, field
from typing import Final

_MOST_EXAMPLES: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Lines and files that could not be used.

    Parameters
    ----------
    num_torn
        Lines that end in the middle.
    num_bad_crc
        Lines whose bytes changed after they were written.
    num_rejected
        Lines that are whole and yet no event: wrong types, unknown schema, repeated keys.
    num_duplicate
        Events that are there twice.
    num_missing
        Events whose number is skipped.
    num_other
        Whole files or directories that contradict each other.
    examples
        ``file:line: reason`` of the first ones, in the order of reading.
    """

    num_torn: int = 0
    num_bad_crc: int = 0
    num_rejected: int = 0
    num_duplicate: int = 0
    num_missing: int = 0
    num_other: int = 0
    examples: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.describe())

    def describe(self) -> str:
        """Return the counts in words, empty where nothing was damaged."""
        named = {
            "torn": self.num_torn,
            "with a bad CRC": self.num_bad_crc,
            "rejected": self.num_rejected,
            "duplicate": self.num_duplicate,
            "missing": self.num_missing,
        }
        parts = [f"{count} {'line' if count == 1 else 'lines'} {name}" for name, count in named.items() if count]
        if self.num_other:
            parts.append(f"{self.num_other} {'contradiction' if self.num_other == 1 else 'contradictions'}")
        return ", ".join(parts)


@dataclass(slots=True)
class DamageCounter:
    """Damage while it is being counted."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def add(self, category: str, place: str, reason: str, *, count: int = 1) -> None:
        """Count damage of a category (a ``num_...`` field of :class:`Damage` without its prefix)."""
        self.counts[category] = self.counts.get(category, 0) + count
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(f"{place}: {reason}")

    def result(self) -> Damage:
        """Return what was counted."""
        return Damage(examples=tuple(self.examples), **{f"num_{name}": count for name, count in self.counts.items()})
