"""The text that the demo learns is the same at every reading, and it is Python."""

import ast
import sysconfig
from pathlib import Path

import pytest

from numguard.demonstration import standard_library_text
from numguard.errors import UsageError


def test_it_is_python_source_in_a_fixed_order() -> None:
    text = standard_library_text(2**18)
    assert len(text) == 2**18
    assert text == standard_library_text(2**18)
    first = min(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert text.startswith(first.read_bytes())
    assert ast.parse(first.read_bytes())


def test_a_python_without_source_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UsageError, match="holds none"):
        standard_library_text()
