"""How a live job is asked for an exhaustive burst: a signal, or a file in its run directory."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

_POLL_SECONDS: Final = 1.0
DEFAULT_STEPS: Final = 5


class Triggers:
    """Listens for SIGUSR1 and for the file ``RUN/arm``.

    Parameters
    ----------
    run_dir
        Where the file may appear; None listens to the signal only. The file may hold a number of steps; it is
        removed when it has been read.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._file = None if run_dir is None else run_dir / "arm"
        self._next_poll = 0.0
        self._signalled = False
        self._previous: Any = None
        self._installed = False

    def start(self) -> None:
        """Install the signal handler, in the main thread and where nobody else has one."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
            return
        if signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, None):
            self._previous = signal.signal(signal.SIGUSR1, self._on_signal)
            self._installed = True

    def stop(self) -> None:
        """Give the signal back."""
        is_main = threading.current_thread() is threading.main_thread()
        if self._installed and is_main and signal.getsignal(signal.SIGUSR1) == self._on_signal:
            signal.signal(signal.SIGUSR1, self._previous or signal.SIG_DFL)
        self._installed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def asked(self) -> tuple[int, str] | None:
        """Return the number of steps that were asked for, and by what, or None. Cheap enough for every step."""
        if self._signalled:
            self._signalled = False
            return DEFAULT_STEPS, "SIGUSR1"
        if self._file is None:
            return None
        now = time.monotonic()
        if now < self._next_poll:
            return None
        self._next_poll = now + _POLL_SECONDS
        return self._read()

    def _read(self) -> tuple[int, str] | None:
        assert self._file is not None
        try:
            text = self._file.read_text(errors="replace")[:20].strip()
            self._file.unlink()
        except OSError:
            return None
        steps = int(text) if text.isdecimal() else DEFAULT_STEPS
        return max(1, min(steps, 1000)), "RUN/arm"
