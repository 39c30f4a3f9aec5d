"""One event as one line: what goes in comes out, whatever it holds."""

import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.records.lines import Rejection, decoded, encoded
from numguard.records.schema import EVENTS, MAX_EVENT_BYTES, SCHEMA

STEP: dict[str, Any] = {"step": 3, "loss": 2.5, "step_seconds": 0.1, "own_seconds": 0.0, "armed": False}


def signed(body: bytes) -> bytes:
    """Return a line with a right CRC around any body that ends before its closing brace."""
    return body + b',"crc":"%08x"}' % zlib.crc32(body)


def line_with(**changes: Any) -> bytes:
    text = json.dumps({"schema": SCHEMA, "seq": 0, "event": "step", **STEP, **changes}, separators=(",", ":"))
    return signed(text[:-1].encode())


@given(
    loss=st.floats(allow_nan=True, allow_infinity=True),
    step=st.integers(0, 2**63 - 1),
    extra=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\x1b\"'<"), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_an_event_survives_the_way_to_the_file_and_back(loss: float, step: int, extra: object) -> None:
    lines = encoded(7, "step", {**STEP, "loss": loss, "step": step, "extra": extra})
    assert len(lines) == 1
    assert lines[0].endswith(b"\n")
    assert lines[0].count(b"\n") == 1
    assert b"NaN" not in lines[0] or "NaN" in str(extra)
    event = decoded(lines[0][:-1])
    assert not isinstance(event, Rejection)
    assert event[:2] == (7, "step")
    assert event[2]["extra"] == extra
    assert event[2]["step"] == step
    back = event[2]["loss"]
    assert back == loss or (math.isnan(back) and math.isnan(loss))


@pytest.mark.parametrize(("value", "written"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_number_that_is_not_finite_is_written_as_a_string(value: float, written: str) -> None:
    line = encoded(0, "step", {**STEP, "loss": value})[0]
    assert json.loads(line, parse_constant=pytest.fail)["loss"] == written


def test_no_tensor_value_is_written() -> None:
    line = encoded(0, "step", {**STEP, "tensor": torch.tensor([101.0, 7592.0]), "array": np.array([101.0, 7592.0])})[0]
    assert b"7592" not in line
    assert b"torch.Tensor" in line
    assert json.loads(encoded(0, "step", {**STEP, "scalar": np.float32(1.5)})[0])["scalar"] == 1.5


def test_a_long_coverage_is_split_and_comes_back_whole() -> None:
    sites = [{"op": f"aten.op{index}", "module": "m" * 200} for index in range(2_000)]
    fields = dict.fromkeys(EVENTS["coverage"], 0) | {"sites": sites, "uncovered": {}}
    lines = encoded(5, "coverage", fields)
    assert len(lines) > 1
    assert all(len(line) <= MAX_EVENT_BYTES for line in lines)
    events = [decoded(line[:-1]) for line in lines]
    assert [event[0] for event in events if isinstance(event, tuple)] == list(range(5, 5 + len(lines)))
    assert [site for event in events if isinstance(event, tuple) for site in event[2]["sites"]] == sites


def test_a_long_text_is_cut_and_says_so() -> None:
    event = decoded(encoded(0, "selftest", {"step": 0, "passed": False, "stage": "x", "detail": "y" * 10**6})[0][:-1])
    assert isinstance(event, tuple)
    assert event[2]["truncated"] is True
    assert "1000000 characters" in event[2]["detail"]


@pytest.mark.parametrize("step", [True, "7", 1.5, -1, 2**63, None])
def test_a_step_that_is_no_step_is_rejected(step: object) -> None:
    event = decoded(line_with(step=step))
    assert isinstance(event, Rejection)
    assert event.category == "rejected"
    assert "step.step is" in event.reason


@pytest.mark.parametrize(
    ("raw", "category", "says"),
    [
        (b"", "torn", "torn"),
        (b'{"schema":1,"seq":0,"event":"step","st', "torn", "torn"),
        (line_with()[:-1], "torn", "torn"),
        (line_with().replace(b"2.5", b"9.5"), "bad_crc", "CRC"),
        (line_with(schema=999), "rejected", "999"),
        (line_with(schema="1"), "rejected", "schema"),
        (line_with(schema=True), "rejected", "schema"),
        (line_with(seq=-1), "rejected", "seq"),
        (line_with(event="teapot"), "rejected", "teapot"),
        (line_with(event=["step"]), "rejected", "no event name"),
        (line_with(loss="2.5"), "rejected", "step.loss"),
        (line_with(loss=10**4000), "rejected", "too large for a float"),
        (line_with(lr=[1]), "rejected", "step.lr"),
        (signed(b'{"schema":1,"seq":0,"event":"step","step":1,"step":2'), "rejected", "the same key twice"),
        (signed(b'{"schema":1,"seq":0,"event":"step","deep":' + b"[" * 30_000 + b"]" * 30_000), "rejected", "nested"),
        (signed(b'{"schema":1,"seq":0,"event":"step","deep":' + b"[" * 100 + b"]" * 100), "rejected", "nested"),
        (signed(b'{"schema":1,"seq":0,"big":' + b"9" * 5_000), "rejected", "digits"),
        (signed(b'{"schema":1,"seq":0,"event":"step","text":"\xff"'), "rejected", "utf-8"),
        (signed(b"{'no': 'json'"), "rejected", ""),
        (b"\0" * 100, "rejected", "NUL"),
        (line_with(text="x" * MAX_EVENT_BYTES), "rejected", "longer"),
    ],
)
def test_what_is_no_event_is_named(raw: bytes, category: str, says: str) -> None:
    event = decoded(raw)
    assert isinstance(event, Rejection)
    assert event.category == category
    assert says in event.reason
    assert len(event.reason) < 200


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
def test_a_bare_non_finite_loss_is_read_as_what_it_is(number: bytes) -> None:
    event = decoded(signed(line_with()[: -len(',"crc":"01234567"}')].replace(b"2.5", number)))
    assert isinstance(event, tuple)
    assert not math.isfinite(event[2]["loss"])


def test_a_lone_surrogate_can_be_printed() -> None:
    event = decoded(line_with(text="a\ud800b"))
    assert isinstance(event, tuple)
    assert event[2]["text"].encode("utf-8").startswith(b"a")


@given(
    raw=st.binary(max_size=200)
    | st.binary(max_size=60).map(signed)
    | st.text(max_size=60).map(lambda t: signed(t.encode()))
)
def test_no_bytes_raise(raw: bytes) -> None:
    event = decoded(raw)
    assert isinstance(event, (Rejection, tuple))


@given(place=st.integers(0, 120), value=st.integers(0, 255))
def test_a_changed_byte_never_passes_for_another_event(place: int, value: int) -> None:
    raw = line_with()
    changed = bytearray(raw)
    changed[place % len(raw)] = value
    event, original = decoded(bytes(changed)), decoded(raw)
    assert isinstance(event, Rejection) or event == original
