"""A file of accepted fingerprints: a mistake in it is one line with its place."""

from pathlib import Path

import pytest

from numguard.errors import InputError
from numguard.records import read_accepted

ENTRY = '[[accepted]]\nfingerprint = "0123456789ab"\nreason = "known"\n'


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "accepted.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_fingerprints_come_with_their_reasons(tmp_path: Path) -> None:
    other = '[[accepted]]\nfingerprint = "ffffffffffff"\nreason = "also"\nop = "sum"\n'
    accepted = read_accepted(written(tmp_path, 'torch = "2.13.0"\n' + ENTRY + other))
    assert accepted == {"0123456789ab": "known", "ffffffffffff": "also"}


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (ENTRY + "x = = 1\n", "4:5", "Invalid value"),
        (ENTRY + '[[accepted]]\nfingerprint = "xyz"\nreason = "r"\n', "4:1", "'xyz'"),
        (ENTRY + '[[accepted]]\nreason = "r"\n', "4:1", "missing"),
        ('[[accepted]]\nfingerprint = "0123456789ab"\n', "1:1", "has no reason"),
        ('[[accepted]]\nfingerprint = "0123456789ab"\nreason = " "\n', "1:1", "has no reason"),
        ('fingerprint = "0123456789ab"\n', "1:1", "no [[accepted]] table"),
        ("accepted = [1]\n", "accepted[0]", "not a table"),
        (b"\n\nx = '\xff'\n", "3:6", "not UTF-8"),
        ("x = " + "[" * 10_000, "", ""),
        ("x = " + "9" * 5_000, "", "not usable TOML"),
        ('x = "', "1:6", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, content: str | bytes, place: str, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError) as refused:
        read_accepted(path)
    assert refused.value.place == place or not place
    assert says in refused.value.reason
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["missing.toml", ".", "a\0b", "x" * 5_000])
def test_a_path_that_is_no_file_is_one_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        read_accepted(f"{tmp_path}/{path}")
