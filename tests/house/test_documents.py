"""The documents at the root say what is true of the code."""

import re
import tomllib
from typing import Any

import pytest

from numguard.finding import KINDS
from tests.house.source_tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _commands() -> list[str]:
    return re.findall(r"<!-- ci: (?:demo|tests) -->\n```bash\n(.+?)\n```", README, flags=re.S)


def test_readme_has_two_set_up_commands_of_one_line_each() -> None:
    commands = _commands()
    assert len(commands) == 2
    assert not any("\n" in command for command in commands)
    assert "numguard demo" in commands[0]
    assert "pytest" in commands[1]


def test_readme_installs_a_tested_set() -> None:
    assert all("-c constraints.txt" in command for command in _commands())


def test_every_constraint_is_a_pin() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", line)] == []
    names = [line.partition("==")[0].lower() for line in pins]
    assert names == sorted(set(names))


def test_every_dependency_is_pinned() -> None:
    project = _project()
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[\[<>=;~! ]", name)[0].lower() for name in wanted} - {project["name"]}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert [name for name in sorted(names) if f"\n{name}==" not in f"\n{pins}"] == []


@pytest.mark.parametrize("kind", [*KINDS])
def test_readme_explains_every_kind_of_finding(kind: str) -> None:
    assert f"`{kind}`" in README


def test_changelog_knows_the_version() -> None:
    assert f"## [{_project()['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_between_the_documents_lead_somewhere() -> None:
    documents = list(ROOT.glob("*.md"))
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (ROOT / target).exists()
    ]
    assert broken == []
