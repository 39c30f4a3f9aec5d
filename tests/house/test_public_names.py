"""The public API is sorted, importable, and documented in full."""

import importlib
import inspect
import re

import pytest

import numguard

NAMES = tuple(name for name in dir(numguard) if not name.startswith("_") and name in numguard.__all__)


def test_the_table_of_public_names_is_sorted_and_complete() -> None:
    assert list(numguard.__all__) == sorted(numguard.__all__)
    assert len(set(numguard.__all__)) == len(numguard.__all__)
    assert set(numguard.__all__) <= set(dir(numguard))


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(importlib.import_module("numguard"), name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(numguard, name)
    text = inspect.getdoc(thing) or ""
    assert re.match(r"[A-Z`].*[.:]", text.partition("\n\n")[0].replace("\n", " ")), f"{name}: no full first sentence"
    parameters = _parameters(thing)
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S+\n-{3,}$|\Z)", text, flags=re.M | re.S)
    described = (
        set(re.findall(r"\*{0,2}(\w+)", " ".join(re.findall(r"^\S.*$", section[1], re.M)))) if section else set()
    )
    assert parameters <= described, f"{name}: {sorted(parameters - described)} not described"


def _parameters(thing: object) -> set[str]:
    if not callable(thing):
        return set()
    if isinstance(thing, type) and issubclass(thing, Exception) and "__init__" not in vars(thing):
        return set()
    return set(inspect.signature(thing).parameters)


def test_public_methods_of_a_guard_are_documented() -> None:
    kind = type(numguard.guard())
    methods = {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}
    assert {"arm", "coverage", "findings", "overhead", "pause", "report", "start", "step", "stop"} <= set(methods)
    assert [name for name, member in methods.items() if not inspect.getdoc(member)] == []
