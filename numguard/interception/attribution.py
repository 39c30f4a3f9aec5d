"""Where a call came from: phase, module, and the user's own line, without a hook on anything.

A walk over the Python frames gives module and line of a forward call. Autograd creates the node of an operator
before it calls the kernel, so inside a dispatch mode the newest sequence number is that node's own; a backward
operator carries the number of its node, and the table of numbers leads from it to the forward line.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import sep
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Literal

import torch

Phase = Literal["forward", "backward", "optimizer"]

_MODULE_CALL: Final = torch.nn.Module._call_impl.__code__
_TORCH: Final = str(Path(torch.__file__).parent) + sep
_NUMGUARD: Final = str(Path(__file__).parents[1]) + sep
_OPTIMIZER: Final = (_TORCH + "optim" + sep, _TORCH + f"nn{sep}utils{sep}clip_grad.py", _TORCH + f"amp{sep}")
_DEPTH: Final = 96  # frames; deeper stacks are cut rather than walked

# By file and name: code objects compare equal where the same text lies in two files, one of them a copy.
_kinds: dict[tuple[str, str], int] = {}
_USER, _LIBRARY, _CALL, _STEP = range(4)

# The binding exists in every release since 2.0 and is the only cheap way to ask; None outside backward.
current_node: Callable[[], Any] = torch._C._current_autograd_node
_sequence_number: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where one operator call came from.

    Parameters
    ----------
    phase
        ``"forward"``, ``"backward"`` (a checkpoint's recomputation too) or ``"optimizer"`` (gradient clipping and
        unscaling too).
    module
        Qualified name in the guarded model, else the class name, else an empty string.
    location
        ``file:line`` of the innermost frame outside torch and numguard, or None.
    exact
        False where a backward operator was matched to the nearest recorded forward operator only.
    """

    phase: Phase
    module: str
    location: str | None
    exact: bool = True


def _kind(code: CodeType) -> int:
    name = code.co_filename
    if code is _MODULE_CALL:
        kind = _CALL
    elif name.startswith(_OPTIMIZER):
        kind = _STEP
    elif name.startswith((_TORCH, _NUMGUARD, "<")):
        kind = _LIBRARY
    else:
        kind = _USER
    _kinds[name, code.co_qualname] = kind
    return kind


def short_path(filename: str) -> str:
    """Return a path below the working directory, else its last two parts, so that no home directory is recorded."""
    path = Path(filename)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(Path(*path.parts[-2:]))


class Attribution:
    """Tells the origin of calls within one guarded run.

    Parameters
    ----------
    names
        Qualified module names by ``id`` of the module.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._forward: dict[int, tuple[str, str | None]] = {}
        self._locations: dict[tuple[str, int], str] = {}
        self._origins: dict[tuple[Phase, str, str | None, bool], Origin] = {}

    def start_step(self) -> None:
        """Forget the sequence numbers of the step before."""
        self._forward.clear()

    def origin(self) -> Origin:
        """Return the origin of the operator call that is being dispatched on this thread."""
        node = current_node()
        module, location, step = self._walk()
        if node is not None:
            if module:  # a checkpoint recomputes the forward inside backward
                self._forward.setdefault(_sequence_number() - 1, (module, location))
                return self._origin("backward", module, location)
            return self._of_node(node, location)
        if step:
            return self._origin("optimizer", module, location)
        if torch.is_grad_enabled():
            self._forward.setdefault(_sequence_number() - 1, (module, location))
        return self._origin("forward", module, location)

    def note_forward(self) -> None:
        """Remember where the operator comes from that is being dispatched, for its backward."""
        module, location, _ = self._walk()
        if module or current_node() is None:
            self._forward.setdefault(_sequence_number() - 1, (module, location))

    def _origin(self, phase: Phase, module: str, location: str | None, *, exact: bool = True) -> Origin:
        key = (phase, module, location, exact)
        known = self._origins.get(key)
        if known is None:
            known = self._origins[key] = Origin(phase=phase, module=module, location=location, exact=exact)
        return known

    def _of_node(self, node: Any, location: str | None) -> Origin:
        number = node._sequence_nr()
        found = self._forward.get(number)
        if found is not None:
            return self._origin("backward", *found)
        # The forward operator of this node is not a checked one: the nearest lower number is its neighbour.
        near = max((known for known in self._forward if known < number), default=None)
        if near is None:
            return self._origin("backward", "", location, exact=False)
        return self._origin("backward", *self._forward[near], exact=False)

    def _walk(self) -> tuple[str, str | None, bool]:
        frame: FrameType | None = sys._getframe(2)
        module, location, step = "", None, False
        for _ in range(_DEPTH):
            if frame is None or (module and location):
                break
            code = frame.f_code
            kind = _kinds.get((code.co_filename, code.co_qualname))
            if kind is None:
                kind = _kind(code)
            if kind == _USER:
                if location is None:
                    location = self._place(code, frame.f_lineno)
                    if step:
                        break
            elif kind == _CALL:
                if not module:
                    owner = frame.f_locals["self"]
                    module = self._names.get(id(owner)) or type(owner).__name__
            elif kind == _STEP:
                step = True
            frame = frame.f_back
        return module, location, step

    def _place(self, code: CodeType, line: int) -> str:
        known = self._locations.get((code.co_filename, line))
        if known is None:
            known = self._locations[code.co_filename, line] = f"{short_path(code.co_filename)}:{line}"
        return known
