"""The project's own source files, parsed, for the tests of house rules."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("numguard", "kernels", "tests", "reproductions", "benchmarks", "examples")
PRODUCT: Final = frozenset({"numguard", "kernels"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One Python file: its path below the root, its text, and its tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.parts[0]

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Return every Python file below the folders; below all of :data:`FOLDERS` by default."""
    found = []
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "__pycache__" not in path.parts:
                text = path.read_text(encoding="utf-8")
                found.append(Source(path=path.relative_to(ROOT), text=text, tree=ast.parse(text)))
    return tuple(found)


def num_function_lines(function: Function) -> int:
    """Return the length of a function from ``def`` to its last line, the docstring left out."""
    num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        num_lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return num_lines
