"""The GPUs that kernels are compiled for, with the published figures that a prediction needs."""

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One architecture, and a GPU of it.

    Parameters
    ----------
    name
        ``"sm_90"``, ``"gfx942"``.
    backend
        Triton's: ``"cuda"`` or ``"hip"``.
    architecture
        As Triton wants it: 90, or ``"gfx942"``.
    warp_size
        Threads that run together.
    gpu
        The GPU that the following figures are of, from its vendor's data sheet.
    num_multiprocessors, lanes_per_clock, clock_hz
        Multiprocessors, fp32 instructions per clock in each, and boost clock.
    bytes_per_second
        Of its memory, at its peak.
    """

    name: str
    backend: str
    architecture: int | str
    warp_size: int
    gpu: str
    num_multiprocessors: int
    lanes_per_clock: int
    clock_hz: float
    bytes_per_second: float

    @property
    def instructions_per_second(self) -> float:
        """Thread instructions that all multiprocessors issue together."""
        return self.num_multiprocessors * self.lanes_per_clock * self.clock_hz

    def triton_target(self) -> Any:
        """Return Triton's own description."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.architecture, self.warp_size)


def _nvidia(capability: int, *, lanes_per_clock: int = 128, **figures: Any) -> Target:
    return Target(
        name=f"sm_{capability}",
        backend="cuda",
        architecture=capability,
        warp_size=32,
        lanes_per_clock=lanes_per_clock,
        **figures,
    )


#: Every architecture of the gates, by name.
TARGETS: Final = {
    entry.name: entry
    for entry in (
        # 64 fp32 units; address arithmetic and conversions share the four issue slots of 32 lanes with them.
        _nvidia(
            80, gpu="A100", num_multiprocessors=108, lanes_per_clock=64, clock_hz=1.41e9, bytes_per_second=2.039e12
        ),
        _nvidia(90, gpu="H100", num_multiprocessors=132, clock_hz=1.83e9, bytes_per_second=3.35e12),
        _nvidia(100, gpu="B200", num_multiprocessors=148, clock_hz=1.85e9, bytes_per_second=8.0e12),
        Target(
            name="gfx942",
            backend="hip",
            architecture="gfx942",
            warp_size=64,
            gpu="MI300X",
            num_multiprocessors=304,
            lanes_per_clock=128,
            clock_hz=2.1e9,
            bytes_per_second=5.3e12,
        ),
    )
}
