"""What is audited: public functions of torch, each as the expression that a user types, with the inputs it takes.

A subject says nothing about what is right or wrong: that is the business of the checks, and of float64. One line is
one subject; families only share the sizes they are tried at.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

Sizes = Mapping[str, int]
_INPUT = re.compile(r"(values|weight|unit|signs|distribution|index|mask)((?: \w+)*)(?: < (\w+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One argument.

    Parameters
    ----------
    name
        As the expression calls it.
    role
        ``"values"`` takes the adversarial data; ``"weight"`` is near one; ``"unit"`` in (0, 1); ``"signs"`` is 1 or
        -1; ``"distribution"`` sums to one over the last dimension; ``"index"`` counts below ``limit``; ``"mask"`` is
        boolean, nothing of its last row true.
    dims
        Names or figures of the dimensions.
    limit
        Name of the size that an index stays below.
    """

    name: str
    role: str
    dims: tuple[str, ...]
    limit: str = ""

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape at given sizes."""
        return tuple(int(dim) if dim.isdigit() else sizes[dim] for dim in self.dims)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One expression.

    Parameters
    ----------
    name
        What findings and reproducers call it.
    family
        For tables, and for which sizes are tried.
    expression
        Python, with ``torch``, ``F``, the inputs and the sizes in scope.
    inputs
        In the order in which they are drawn.
    sizes
        What is tried eagerly, smallest first.
    large
        What level ``full`` adds, of many elements.
    equivalent
        Another expression that must agree wherever a number is asked for; empty for none.
    differentiable
        False where only the forward pass is looked at.
    """

    name: str
    family: str
    expression: str
    inputs: tuple[Input, ...]
    sizes: tuple[Sizes, ...]
    large: tuple[Sizes, ...] = ()
    equivalent: str = ""
    differentiable: bool = True


def subject(
    expression: str,
    family: str,
    sizes: Sequence[Sizes],
    *,
    large: Sequence[Sizes] = (),
    equivalent: str = "",
    differentiable: bool = True,
    **inputs: str,
) -> Subject:
    """Return the subject of one line of a table; inputs are written ``x="values n c"``, ``i="index n < k"``."""
    parsed = []
    for name, text in inputs.items():
        match = _INPUT.fullmatch(text)
        if match is None:
            raise ValueError(f"input {name}={text!r} of {expression} is not of the form 'role dims < limit'")
        parsed.append(Input(name=name, role=match[1], dims=tuple(match[2].split()), limit=match[3] or ""))
    return Subject(
        name=expression,
        family=family,
        expression=expression,
        inputs=tuple(parsed),
        sizes=tuple(MappingProxyType(dict(entry)) for entry in sizes),
        large=tuple(MappingProxyType(dict(entry)) for entry in large),
        equivalent=equivalent,
        differentiable=differentiable,
    )


ROWS: Final = ({"n": 5, "c": 37}, {"n": 2, "c": 1030}, {"n": 4096, "c": 3})
