"""One guard at a time on a thread: a nested one suspends the outer, and a forked child is let go."""

import os
import threading
from typing import Protocol


class Nestable(Protocol):
    """What nesting asks of a guard."""

    def suspend(self) -> None:
        """Look away."""

    def resume(self) -> None:
        """Look again."""

    def abandon(self) -> None:
        """Let go in a forked child."""


_stacks = threading.local()


def _stack() -> list[Nestable]:
    stack: list[Nestable] | None = getattr(_stacks, "guards", None)
    if stack is None:
        stack = _stacks.guards = []
    return stack


def entered(guard: Nestable) -> None:
    """Note that a guard has started on this thread; the one around it looks away."""
    stack = _stack()
    if stack:
        stack[-1].suspend()
    stack.append(guard)


def left(guard: Nestable) -> None:
    """Note that a guard has stopped; the one around it looks again."""
    stack = _stack()
    if guard not in stack:
        return
    was_innermost = stack[-1] is guard
    stack.remove(guard)
    if stack and was_innermost:
        stack[-1].resume()


def innermost() -> Nestable | None:
    """Return the guard that looks at this thread, or None."""
    stack = _stack()
    return stack[-1] if stack else None


def _after_fork() -> None:
    for guard in _stack():
        guard.abandon()
    _stack().clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
