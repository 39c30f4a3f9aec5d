"""Whether the twin is there: nothing waits for the compiler unless it is told to."""

import ctypes
import os
import threading
from typing import Literal

from numguard_kernels.native.cache import CacheRefusedError
from numguard_kernels.native.compilation import CompilationError, compiled_library, kept_library
from numguard_kernels.native.library import LibraryError, load

State = Literal["untried", "compiling", "ready", "missing"]
_FAILURES = (CacheRefusedError, CompilationError, LibraryError)


class Readiness:
    """The library of this process, from nothing to loaded.

    ``state`` says how far it is, ``reason`` why it is missing. Only :meth:`wait` blocks on a compiler.
    """

    def __init__(self) -> None:
        self.state: State = "untried"
        self.reason = ""
        self._library: ctypes.CDLL | None = None
        self._thread: threading.Thread | None = None
        self._looked = False
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """In a child, the thread that compiled is not there: begin again."""
        self._lock, self._thread = threading.Lock(), None
        if self.state == "compiling":
            self.state = "untried"

    def library(self) -> ctypes.CDLL | None:
        """Return the library if it is loaded, at the cost of one attribute."""
        return self._library

    def load_kept(self) -> ctypes.CDLL | None:
        """Return the library, loading what was compiled before; never compile, and look into the cache only once."""
        with self._lock:
            if self.state == "untried" and not self._looked:
                self._looked = True
                try:
                    path = kept_library()
                    if path is not None:
                        self._library, self.state = load(path), "ready"
                except _FAILURES:
                    pass  # begin() says why
            return self._library

    def begin(self) -> State:
        """Load what was compiled before, at once, or start compiling in a thread; return the state."""
        with self._lock:
            if self.state == "untried":
                try:
                    path = kept_library()
                    if path is not None:
                        self._library, self.state = load(path), "ready"
                    else:
                        self.state = "compiling"
                        self._thread = threading.Thread(target=self._finish, name="numguard-compiler", daemon=True)
                        self._thread.start()
                except _FAILURES as error:
                    self._missing(error)
            return self.state

    def wait(self) -> State:
        """Compile and load now if need be, in this thread or along with the one that has begun."""
        thread = self._thread if self.begin() == "compiling" else None
        if thread is not None:
            thread.join()
        return self.state

    def _finish(self) -> None:
        try:
            self._library = load(compiled_library())
            self.state = "ready"
        except _FAILURES as error:
            self._missing(error)

    def _missing(self, error: Exception) -> None:
        self.state, self.reason = "missing", str(error)


TWIN = Readiness()
