"""Which event numbers of one process have been seen: the gaps and the repetitions."""

from dataclasses import dataclass, field
from typing import Final

_MOST_GAPS: Final = 4_096


@dataclass(slots=True)
class Sequence:
    """The numbers seen so far, as the next one expected and the gaps before it."""

    expected: int = 0
    num_missing: int = 0
    _gaps: list[tuple[int, int]] = field(default_factory=list)

    def is_new(self, number: int) -> bool:
        """Take a number; False if it was there before."""
        if number == self.expected:
            self.expected += 1
            return True
        if number > self.expected:
            self.num_missing += number - self.expected
            if len(self._gaps) < _MOST_GAPS:
                self._gaps.append((self.expected, number))
            self.expected = number + 1
            return True
        for index, (start, stop) in enumerate(self._gaps):
            if start <= number < stop:
                self._gaps[index : index + 1] = [
                    gap for gap in ((start, number), (number + 1, stop)) if gap[0] < gap[1]
                ]
                self.num_missing -= 1
                return True
        return False
