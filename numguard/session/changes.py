"""What a change of stored numbers means that nobody was seen to make: a flipped bit, or somebody's write."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import Tensor

from numguard.interception.memory_sums import BLOCK_WORDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A part of a tensor that is not what it was.

    Parameters
    ----------
    name, what
        ``what`` is ``"parameter"``, ``"moment"`` or ``"buffer"``.
    tensor
        As it is now.
    first
        First byte of the part.
    observed
        Whether its version counter or its memory has changed, too: then it was written by a program.
    bit
        Block and bit of its 64-bit word where one flipped bit explains the change, else None.
    num_blocks
        Blocks of 4 KiB that have changed.
    step
        In which it was last known to be right.
    """

    name: str
    what: str
    tensor: Tensor
    first: int
    observed: bool
    bit: tuple[int, int] | None
    num_blocks: int
    step: int

    @property
    def bit_of_element(self) -> int:
        """Which bit of an element has flipped, counted from the lowest."""
        assert self.bit is not None
        return self.bit[1] % (8 * self.tensor.element_size())

    @property
    def elements(self) -> tuple[int, int]:
        """First and last element, in memory order, among which the flipped one lies."""
        assert self.bit is not None
        size = self.tensor.element_size()
        first = self.first + self.bit[0] * BLOCK_WORDS * 8
        return first // size, min(first + BLOCK_WORDS * 8, self.tensor.nbytes) // size - 1


def report_changes(
    changes: Sequence[Change],
    step: int,
    enter: Callable[..., None],
    written_before: AbstractSet[int],
) -> None:
    """Enter what the changes of one comparison mean.

    Parameters
    ----------
    changes
        All of one comparison. A bit that has flipped is alone: a second change beside it has a common cause, a write.
    step
        Present step.
    enter
        Takes findings.
    written_before
        Tensors by ``id`` that were seen to be written outside the optimizer before.

    Notes
    -----
    A change of the lowest bit alone is not called corruption: an update below half the spacing of nearly all elements,
    written past the version counter, looks the same.
    """
    if not changes:
        return
    first = changes[0]
    flipped = len(changes) == 1 and first.bit is not None and not first.observed
    if flipped and first.bit_of_element > 0 and id(first.tensor) not in written_before:
        _corrupted(first, step, enter)
        return
    for what in dict.fromkeys(change.what for change in changes):
        same = [change for change in changes if change.what == what]
        names = [change.name for change in same]
        enter(
            "changed_outside_optimizer",
            (what,),
            op="",
            module=names[0].rpartition(".")[0] if what != "moment" else "",
            phase="",
            first_caught_step=step,
            last_clean_step=min(change.step for change in same),
            message=(
                f"{len(dict.fromkeys(names))} {what}{'s' if len(names) > 1 else ''} changed between two steps of the "
                f"optimizer, {names[0]} among them: written by something else, or loaded."
            ),
            advice=(
                "Nothing to do where that is meant (an averaged copy swapped in, clamping, loading). Call "
                "g.expect_write(params) beside the write to say so."
            ),
            evidence={
                "names": list(dict.fromkeys(names))[:24],
                "observed": any(change.observed for change in same),
                "num_blocks": sum(change.num_blocks for change in same),
            },
        )


def _corrupted(change: Change, step: int, enter: Callable[..., None]) -> None:
    low, high = change.elements
    dtype = str(change.tensor.dtype)[6:]
    enter(
        "corruption",
        (change.name,),
        op="",
        module=change.name.rpartition(" of ")[2].rpartition(".")[0],
        phase="",
        proof="exact",
        confirmed="exact",
        first_caught_step=step,
        last_clean_step=change.step,
        message=(
            f"One bit of {change.name} flipped between two steps of the optimizer: bit {change.bit_of_element} of a "
            f"{dtype} element, one of {low} to {high}, with no write observed. Every other bit that was compared is "
            "what it was."
        ),
        advice=(
            "Suspect the memory of this machine: drain it and test it. The number is wrong from here on: restart from "
            f"a checkpoint of step {change.step} or earlier. A program that writes one bit through .data looks the "
            "same; call g.expect_write(params) there."
        ),
        evidence={
            "tensor": change.name,
            "what": change.what,
            "dtype": dtype,
            "bit": change.bit_of_element,
            "elements": [low, high],
            "shape": list(change.tensor.shape),
        },
    )
