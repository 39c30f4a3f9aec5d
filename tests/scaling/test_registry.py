"""Registered predictions: what is written stays, what was changed shows, what is hostile is told in one line."""

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from numguard import scaling
from numguard.errors import InputError, UsageError
from numguard.scaling.registry_chain import hash_of

COMPUTE = [1e15, 3e15, 1e16, 3e16, 1e17, 3e17, 1e18]


@pytest.fixture(scope="module")
def small_runs() -> scaling.Fit:
    losses = [1.7 + 30 * c**-0.09 * (1 + 0.002 * (-1) ** n) for n, c in enumerate(COMPUTE)]
    return scaling.fit(scaling.PowerLaw(), losses, C=COMPUTE, num_bootstraps=50)


@pytest.fixture
def registry(tmp_path: Path, small_runs: scaling.Fit) -> Path:
    path = tmp_path / "predictions.json"
    scaling.register(path, small_runs, name="large", C=3e19)
    curve = {"step": [100, 1000, 10000], "tokens": [1e6, 1e7, 1e8]}
    scaling.register(path, small_runs, name="curve", C=[1e18, 1e19, 1e20], also=curve, note="width 9000")
    return path


def _rewrite(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    document = json.loads(path.read_text())
    change(document["entries"])
    path.write_text(json.dumps(document))


def _rechained(entries: list[dict[str, Any]]) -> None:
    previous = "0" * 64
    for entry in entries:
        entry["previous"] = previous
        entry["hash"] = previous = hash_of(entry["content"], previous=previous, time=entry["time"])


def test_what_is_registered_is_what_the_fit_predicts(registry: Path, small_runs: scaling.Fit) -> None:
    known, predicted = scaling.registered(registry, "large"), small_runs.predict(C=3e19)
    assert (known.value[0], known.low[0], known.high[0]) == (predicted.value, predicted.low, predicted.high)
    assert known.low[0] < known.value[0] < known.high[0]
    assert known.distance == pytest.approx(30.0)
    assert known.forms[0]["data_hash"] == small_runs.data_hash
    assert known.forms[0]["params"]["b"] == small_runs.params["b"]
    assert len(known.code["scaling"]) == len(known.hash) == 64


def test_the_file_is_plain_json_whose_hashes_anybody_can_compute(registry: Path) -> None:
    document = json.loads(registry.read_text(), parse_constant=pytest.fail)
    previous = "0" * 64
    for entry in document["entries"]:
        assert entry["previous"] == previous
        whole = {name: entry[name] for name in ("time", "previous", "content")}
        previous = hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        assert entry["hash"] == previous


def test_an_outcome_is_scored_and_kept(registry: Path) -> None:
    known = scaling.registered(registry, "large")
    inside = scaling.verify(registry, known.value[0] * 1.001, name="large", receipt=known.hash)
    assert inside.ok
    assert inside.coverage == 1.0
    assert inside.relative_error[0] == pytest.approx(0.001)
    again = scaling.verify(registry, name="large")
    assert again == inside
    before = registry.read_bytes()
    assert scaling.verify(registry, known.value[0] * 1.001, name="large") == inside
    assert registry.read_bytes() == before


@pytest.mark.parametrize(("factor", "word"), [(0.5, "below"), (2.0, "above")])
def test_a_miss_is_a_miss_on_either_side(registry: Path, factor: float, word: str) -> None:
    value = scaling.registered(registry, "large").value[0]
    found = scaling.verify(registry, value * factor, name="large", record=False)
    assert not found.ok
    assert word in str(found)
    assert len(json.loads(registry.read_text())["entries"]) == 2, "record=False writes nothing"


def test_the_log_score_is_that_of_the_normal_density_behind_the_interval(registry: Path) -> None:
    known = scaling.registered(registry, "large")
    found = scaling.verify(registry, known.high[0], name="large", record=False)
    spread = math.log(known.high[0] / known.low[0]) / (2 * stats.norm.ppf(0.95))
    expected = stats.norm.logpdf(math.log(known.high[0]), math.log(known.value[0]), spread)
    assert found.log_score[0] == pytest.approx(expected)


def test_outcomes_along_a_run_are_paired_by_any_column(registry: Path) -> None:
    known = scaling.registered(registry, "curve")
    outcome = {"tokens": [1e8, 1e6], "loss": [known.value[2], known.high[0] * 1.5]}
    found = scaling.verify(registry, outcome, name="curve")
    assert found.rows == (0, 2)
    assert found.inside == (False, True)
    assert found.ok
    assert found.coverage == 0.5


def test_a_band_is_interpolated_and_never_extrapolated(registry: Path) -> None:
    known = scaling.registered(registry, "curve")
    at_mark, between = known.band(step=1000), known.band(step=math.sqrt(100 * 1000))
    assert at_mark is not None
    assert between is not None
    assert (at_mark.value, at_mark.low, at_mark.high) == (known.value[1], known.low[1], known.high[1])
    assert between.value == pytest.approx((known.value[0] + known.value[1]) / 2)
    assert known.band(compute=1e19) == at_mark == known.band(tokens=1e7) == known.band(unknown=1, step=1000)
    assert known.band(step=99) is None
    assert known.band(step=10001) is None


def test_one_row_has_a_band_at_its_place_alone(registry: Path) -> None:
    known = scaling.registered(registry, "large")
    assert known.band(C=3e19) is not None
    assert known.band(C=2.9e19) is None
    with pytest.raises(UsageError, match=r"none of the columns step.*also="):
        known.band(step=5)


def test_one_fit_for_each_mark(tmp_path: Path, small_runs: scaling.Fit) -> None:
    known = scaling.register(tmp_path / "r.json", [small_runs, small_runs], name="marks", C=[1e19, 1e20])
    assert len(known.forms) == 2
    assert known.value[1] == small_runs.predict(C=1e20).value
    with pytest.raises(UsageError, match="one for each of the 3 rows; there are 2"):
        scaling.register(tmp_path / "r.json", [small_runs] * 2, name="more", C=[1e19, 1e20, 1e21])


CHANGES: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "interval widened": lambda entries: entries[0]["content"]["high"].__setitem__(0, 9.0),
    "data hash exchanged": lambda entries: entries[1]["content"]["forms"][0].__setitem__("data_hash", "0" * 64),
    "dated back": lambda entries: entries[1].__setitem__("time", "2020-01-01T00:00:00+00:00"),
    "first taken out": lambda entries: entries.pop(0),
    "exchanged": lambda entries: entries.reverse(),
    "repeated": lambda entries: entries.append(entries[-1]),
    "added without a hash": lambda entries: entries.append({**entries[-1], "hash": "f" * 64}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_later_change_is_detected(registry: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    _rewrite(registry, change)
    with pytest.raises(InputError, match=r"predictions\.json: entry \d: (was changed|does not follow)"):
        scaling.verify(registry, 2.0, name="curve")


def test_every_single_byte_is_covered(registry: Path) -> None:
    """A digit of any number anywhere in an entry, raised by one, breaks the chain or the file's form."""
    text = registry.read_text()
    digits = [place for place, letter in enumerate(text) if letter.isdigit()][::11]
    assert len(digits) > 30
    for place in digits:
        registry.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
        try:
            found = scaling.registered(registry, "curve")
        except (InputError, UsageError):
            continue
        # 1e+19 and 1e19 spell one number: a change that changes nothing is none
        registry.write_text(text)
        assert found == scaling.registered(registry, "curve")


def test_a_registry_that_was_made_anew_is_found_out_by_its_receipt(registry: Path) -> None:
    receipt = scaling.registered(registry, "large").hash

    def move(entries: list[dict[str, Any]]) -> None:
        entries[0]["content"]["high"][0] *= 2
        _rechained(entries)

    _rewrite(registry, move)
    assert scaling.registered(registry, "large").high[0] > 0
    with pytest.raises(InputError, match="not the receipt's"):
        scaling.verify(registry, 2.0, name="large", receipt=receipt)


def test_a_changed_registry_is_not_written_to(registry: Path, small_runs: scaling.Fit) -> None:
    _rewrite(registry, CHANGES["interval widened"])
    before = registry.read_bytes()
    with pytest.raises(InputError, match="entry 1: was changed"):
        scaling.register(registry, small_runs, name="third", C=1e20)
    assert registry.read_bytes() == before


def test_nothing_is_lost_when_the_disk_is_full(
    registry: Path, small_runs: scaling.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registry.read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(UsageError, match=r"No space left on device.*nothing was registered"):
            scaling.register(registry, small_runs, name="third", C=1e20)
    assert registry.read_bytes() == before
    assert not list(registry.parent.glob("*.tmp"))
    assert scaling.register(registry, small_runs, name="third", C=1e20).name == "third"


def test_those_who_register_at_the_same_time_wait_for_each_other(tmp_path: Path, small_runs: scaling.Fit) -> None:
    path, names = tmp_path / "r.json", [f"run {number}" for number in range(8)]
    threads = [
        threading.Thread(target=scaling.register, args=(path, small_runs), kwargs={"name": name, "C": 1e19})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(scaling.registered(path, name).name for name in names) == names


HOSTILE = {
    "empty": b"",
    "not json": b"{",
    "a list": b"[]",
    "another document": b'{"schema": 1, "entries": []}',
    "NaN": b'{"what": NaN}',
    "repeated keys": b'{"what": 1, "what": 2}',
    "deep": b"[" * 100_000,
    "huge number": b'{"what": ' + b"9" * 5_000 + b"}",
    "binary": bytes(range(256)),
    "gzip": b"\x1f\x8b\x08\x00rest",
    "zip": b"PK\x03\x04rest",
    "pickle": b"\x80\x04\x95",
    "lone surrogate": b'{"what": "\\ud800"}',
    "schema true": b'{"what": "numguard registry of predictions", "schema": true, "entries": []}',
    "schema 999": b'{"what": "numguard registry of predictions", "schema": 999, "entries": []}',
    "no entries": b'{"what": "numguard registry of predictions", "schema": 1, "entries": {}}',
    "an entry that is none": b'{"what": "numguard registry of predictions", "schema": 1, "entries": [7]}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_clear_line(tmp_path: Path, content: bytes, small_runs: scaling.Fit) -> None:
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    for attempt in (
        lambda: scaling.verify(path, 2.0),
        lambda: scaling.register(path, small_runs, name="x", C=1e20),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == content


#: Contents with right hashes: whoever makes the file makes those too.
FORGED: dict[str, dict[str, Any]] = {
    "no name": {"name": ""},
    "name is a number": {"name": 7},
    "unknown kind": {"kind": "surprise"},
    "no columns": {"columns": {}},
    "interval the wrong way round": {"low": [9.0]},
    "negative interval": {"low": [-1.0]},
    "text for a number": {"value": ["2.0"]},
    "true for a number": {"value": [True]},
    "number that no float holds": {"value": [10**400]},
    "lengths differ": {"value": [2.0, 2.0]},
    "level above 1": {"level": 7},
    "no forms": {"forms": None},
    "note is a list": {"note": []},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_entry_with_a_right_hash_is_still_no_prediction(registry: Path, change: dict[str, Any]) -> None:
    def forge(entries: list[dict[str, Any]]) -> None:
        entries[0]["content"].update(change)
        _rechained(entries)

    _rewrite(registry, forge)
    with pytest.raises(InputError, match=r"entry [12]"):
        scaling.verify(registry, 2.0, name="large")


@pytest.mark.parametrize("path", ["no such file.json", ".", "x\0y", "a" * 5000])
def test_a_path_that_is_no_file(tmp_path: Path, path: str, small_runs: scaling.Fit) -> None:
    with pytest.raises(InputError):
        scaling.registered(tmp_path / path)
    if path != "no such file.json":
        with pytest.raises((InputError, UsageError)):
            scaling.register(tmp_path / path, small_runs, name="x", C=1e20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "large", "C": 1e20}, "holds a prediction named 'large' already"),
        ({"name": "", "C": 1e20}, "is no name"),
        ({"name": "a\x1b[2J", "C": 1e20}, "is no name"),
        ({"name": "x"}, "pass the law's columns"),
        ({"name": "x", "C": float("nan")}, "must be finite"),
        ({"name": "x", "C": "many"}, "not numeric"),
        ({"name": "x", "C": []}, "must have one length"),
        ({"name": "x", "N": 1e9}, "column 'C'"),
        ({"name": "x", "C": 1e20, "also": {"C": 1}}, "leave it out of also"),
        ({"name": "x", "C": 1e20, "also": {"step": [1, 2]}}, "one length"),
        ({"name": "x", "C": 1e20, "level": 1.0}, "is not a coverage"),
        ({"name": "x", "C": 1e20, "note": 5}, "note must be a text"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    registry: Path, small_runs: scaling.Fit, arguments: dict[str, Any], message: str
) -> None:
    before = registry.read_bytes()
    with pytest.raises(UsageError, match=message):
        scaling.register(registry, small_runs, **arguments)
    assert registry.read_bytes() == before


@pytest.mark.parametrize(
    ("outcome", "name", "message"),
    [
        (2.0, None, "holds several predictions; pass name=, one of large, curve"),
        (2.0, "other", "no prediction named 'other'"),
        (float("nan"), "large", "finite and above 0"),
        (-1.0, "large", "finite and above 0"),
        (True, "large", "not a number"),
        (None, "large", "no outcome of 'large' is recorded"),
        ({"step": [100], "los": [2.0]}, "curve", "is 'loss' and one of C, step, tokens"),
        ({"step": [5], "loss": [2.0]}, "curve", "nothing was predicted at step=5; the marks are 100, 1000, 10000"),
        ({"step": [100, 100], "loss": [2.0, 2.1]}, "curve", "two losses at one step"),
        ({"step": [100], "loss": [2.0, 2.1]}, "curve", "pair them"),
    ],
)
def test_an_outcome_that_cannot_be_scored(registry: Path, outcome: Any, name: str | None, message: str) -> None:
    before = registry.read_bytes()
    with pytest.raises(UsageError, match=message):
        scaling.verify(registry, outcome, name=name)
    assert registry.read_bytes() == before


def test_another_outcome_does_not_replace_the_first(registry: Path) -> None:
    scaling.verify(registry, 2.0, name="large")
    with pytest.raises(UsageError, match="another outcome of 'large' was recorded at"):
        scaling.verify(registry, 2.1, name="large")
    assert scaling.verify(registry, name="large").outcome == (2.0,)
