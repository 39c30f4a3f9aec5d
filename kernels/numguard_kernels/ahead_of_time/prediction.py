"""How long a kernel should take on a GPU that is not there: a prediction from its machine code, not a measurement."""

from dataclasses import dataclass

from numguard_kernels.ahead_of_time.machine_code import MachineCode
from numguard_kernels.ahead_of_time.targets import Target
from numguard_kernels.spec import Compilation


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Times for one element, all multiprocessors together.

    Parameters
    ----------
    memory_seconds
        Bytes over the peak bandwidth of the memory.
    issue_seconds
        Instructions over the peak issue rate.
    """

    memory_seconds: float
    issue_seconds: float

    @property
    def issue_share(self) -> float:
        """Issue time over memory time: below 1 the kernel waits for memory."""
        return self.issue_seconds / self.memory_seconds

    @property
    def memory_share(self) -> float:
        """Share of the peak bandwidth that can be reached."""
        return 1.0 / max(1.0, self.issue_share)


def predicted(compilation: Compilation, code: MachineCode, target: Target) -> Prediction:
    """Return the prediction for a compilation on a target's GPU.

    Parameters
    ----------
    compilation, code
        A compilation and what it became.
    target
        With its published figures.

    Notes
    -----
    Full overlap of loads and arithmetic is assumed, and one instruction per lane and clock: a lower bound on the time.
    """
    return Prediction(
        memory_seconds=compilation.bytes_per_element / target.bytes_per_second,
        issue_seconds=code.instructions_per_element / target.instructions_per_second,
    )
