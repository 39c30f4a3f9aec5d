"""Nothing is left unfinished, untested or undocumented, and nothing strange hides in a file."""

import ast
import re
import unicodedata

from tests.house.source_tree import ROOT, Function, sources

# Written in pieces, so that this file does not find itself.
_MARKS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
_ASSERTING = re.compile(r"\bassert\b|\braises\(|\bwarns\(|\bassert_\w+\(|\.check\(|\bexpect\w*\(")
_NAMED = ast.Name | ast.Attribute
_COMPARISONS = frozenset({"allclose", "equal", "isclose"})


def test_nothing_is_left_unfinished() -> None:
    marks = [str(source.path) for source in sources() if _MARKS.search(source.text)]
    stubs = [
        f"{source.path}:{node.lineno}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
    ]
    assert marks + stubs == []


def _called(function: Function) -> set[str]:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {call.id if isinstance(call, ast.Name) else call.attr for call in calls if isinstance(call, _NAMED)}


def test_every_test_asserts() -> None:
    """By itself, or through a function of the tests that does."""
    functions = [(source, function) for source in sources("tests", "reproductions") for function in source.functions()]
    asserting = {function.name for _, function in functions if _ASSERTING.search(ast.unparse(function))}
    for _ in range(3):
        asserting |= {function.name for _, function in functions if asserting.intersection(_called(function))}
    silent = [f"{s.path}:{f.name}" for s, f in functions if f.name.startswith("test_") and f.name not in asserting]
    assert silent == []


def test_no_comparison_is_thrown_away() -> None:
    """A bare ``torch.equal(a, b)`` as a statement checks nothing."""
    bare = [
        f"{source.path}:{node.lineno}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in _COMPARISONS
    ]
    assert bare == []


def test_every_public_function_has_a_docstring() -> None:
    undocumented = [
        f"{source.path}:{node.name}"
        for source in sources("numguard", "kernels")
        for node in source.tree.body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert undocumented == []


def test_no_control_characters() -> None:
    """Bidirectional overrides and other invisible characters make code read differently from what it does."""
    strange = [
        f"{source.path}: U+{ord(letter):04X}"
        for source in sources()
        for letter in sorted(set(source.text))
        if unicodedata.category(letter) in ("Cc", "Cf", "Co") and letter not in "\n"
    ]
    assert strange == []


def test_no_absolute_path_of_a_machine() -> None:
    places = re.compile(r"/(?:home|root|Users|work|farm)/\w+")
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), *(ROOT / ".ci").iterdir()]
    texts += [ROOT / source.path for source in sources() if source.path.name != "test_source_rules.py"]
    assert [str(path.relative_to(ROOT)) for path in texts if places.search(path.read_text(encoding="utf-8"))] == []
