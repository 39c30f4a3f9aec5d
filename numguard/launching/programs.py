"""A script or a module run as ``__main__``, as the interpreter itself would run it."""

import importlib.machinery
import importlib.util
import pkgutil
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from numguard.errors import UsageError

_Load = Callable[[], tuple[CodeType, ModuleType]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What is to be run.

    Parameters
    ----------
    target
        Path of a script, or the dotted name of a module.
    arguments
        What the program finds in ``sys.argv[1:]``.
    is_module
        Whether ``target`` is a module, as after ``python -m``.
    """

    target: str
    arguments: Sequence[str] = ()
    is_module: bool = False


def prepare(program: Program) -> Callable[[], None]:
    """Return a function that runs a program to its end in this process, as ``__main__``.

    ``sys.argv``, ``sys.path[0]`` and ``sys.modules["__main__"]`` are what ``python`` would have made them, and stay
    so: threads and ``atexit`` functions of the program outlive it. Every exception passes through, ``SystemExit``
    included; where the interpreter prints its traceback, it begins in the program.

    Parameters
    ----------
    program
        What is to be run.

    Raises
    ------
    UsageError
        The script or the module does not exist.
    """
    if not program.is_module and (Path(program.target).is_dir() or _is_archive(program.target)):
        finder = pkgutil.get_importer(program.target)
        if finder is None or finder.find_spec("__main__") is None:
            raise UsageError(f"cannot run {program.target}: holds no __main__.py; give the path of a script")
        return partial(_run_path, program)
    load = _module(program) if program.is_module else _script(program)
    return partial(_run_code, load)


def _run_path(program: Program) -> None:
    _enter(program, program.target, program.target)
    runpy.run_path(program.target, run_name="__main__")


def _run_code(load: _Load) -> None:
    code: CodeType | None = None
    try:
        code, main = load()
        sys.modules["__main__"] = main
        exec(code, main.__dict__)
    except BaseException:
        _begin_traceback_at(code)
        raise


def _is_archive(target: str) -> bool:
    return target.endswith((".pyz", ".zip")) and Path(target).is_file()


def _enter(program: Program, name: str, first_path: str) -> None:
    sys.argv[:] = [name, *program.arguments]
    if not sys.flags.safe_path:
        sys.path[0] = first_path


def _script(program: Program) -> _Load:
    path = Path(program.target)
    try:
        source = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot run {program.target}: {reason}; give the path of a script, or -m MODULE") from None
    file = str(path.absolute())  # python makes __file__ absolute, and leaves sys.argv[0] as it was typed

    def load() -> tuple[CodeType, ModuleType]:
        _enter(program, program.target, str(path.resolve().parent))
        return compile(source, file, "exec", dont_inherit=True), _main_module(file, None)

    return load


def _module(program: Program) -> _Load:
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd())
    found = _find(program.target)
    if found is not None and found.submodule_search_locations is not None:
        found = _find(f"{program.target}.__main__")
    if found is None or not hasattr(found.loader, "get_code"):
        raise UsageError(
            f"no module named {program.target}, or it cannot be run: it is looked for in {Path.cwd()} and the"
            " installed packages; start numguard in the folder in which python -m finds it"
        )
    spec = found

    def load() -> tuple[CodeType, ModuleType]:
        _enter(program, spec.origin or program.target, str(Path.cwd()))
        code = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
        if code is None:
            raise ImportError(f"no code object available for {spec.name}")
        return code, _main_module(spec.origin, spec)

    return load


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        # A missing parent package; any other exception of a parent's own code is the user's to see.
        return None


def _main_module(file: str | None, spec: importlib.machinery.ModuleSpec | None) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__file__=file, __builtins__=__builtins__, __spec__=spec, __cached__=None)
    main.__package__ = spec.parent if spec is not None else None
    main.__loader__ = spec.loader if spec is not None else None
    return main


def _begin_traceback_at(code: CodeType | None) -> None:
    """Let the traceback that the interpreter is about to print begin at ``code``, or hold no frame without it.

    Our own frames are added while the exception leaves them, so that they can only be left out where it is printed.
    """
    printer = sys.excepthook

    def print_program_frames(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        first = trace
        while first is not None and first.tb_frame.f_code is not code:
            first = first.tb_next
        printer(kind, value.with_traceback(first), first)

    sys.excepthook = print_program_frames
