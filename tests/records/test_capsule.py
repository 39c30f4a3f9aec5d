"""Capsules hold a call and give it back, and hostile ones do nothing but be refused."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from numguard.errors import InputError
from numguard.records.capsule import Capsule, StoredTensor, read_capsule, write_capsule
from numguard.shadow.call import OpCall, bind
from numguard.shadow.replay import arguments_of, capsule_of

SUM = torch.ops.aten.sum.dim_IntList


def call_of(x: torch.Tensor) -> OpCall:
    return OpCall(overload=SUM, arguments=bind(SUM, (x, [0], True), {"dtype": torch.float32}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("view", ["plain", "transposed", "gapped", "expanded", "offset", "empty"])
def test_a_call_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, view: str) -> None:
    x = torch.randn(6, 8).to(dtype)
    views = {
        "plain": x,
        "transposed": x.t(),
        "gapped": x[:, ::2],
        "expanded": x[:1].expand(6, 8),
        "offset": x[1:, 3:],
        "empty": x[:0],
    }
    write_capsule(tmp_path / "c.safetensors", capsule_of(call_of(views[view]), {"kind": "wrong_result"}))
    kept = read_capsule(tmp_path / "c.safetensors")
    given = arguments_of(kept, "c")
    assert torch.equal(given["self"], views[view])
    assert given["self"].dtype == dtype
    assert view == "empty" or given["self"].stride() == views[view].stride()
    assert (given["dim"], given["keepdim"], given["dtype"]) == ([0], True, torch.float32)
    assert kept.content["kind"] == "wrong_result"


def test_a_capsule_is_its_owners(tmp_path: Path) -> None:
    write_capsule(tmp_path / "c.safetensors", capsule_of(call_of(torch.ones(2, 2)), {}))
    assert (tmp_path / "c.safetensors").stat().st_mode & 0o077 == 0


HEADER = b'{"__metadata__": {"numguard": "{}"}}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04pickle",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 9) + b"[[[[[[[[[",
        struct.pack("<Q", len(HEADER)) + HEADER,
    ],
)
def test_what_is_no_capsule_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InputError) as refused:
        read_capsule(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"self": {"tensor": "other"}}},
        {"arguments": {"self": 3}},
        {"arguments": {"self": {"dtype": "Tensor"}}},
        {"arguments": {"self": {"float": "x"}}},
        {"arguments": []},
        {"layouts": {}},
        {"layouts": {"self": {"stride": [1 << 40, 1], "offset": 0}}},
        {"layouts": {"self": {"stride": [100_000, 1], "offset": 0}}},
        {"layouts": {"self": {"stride": [-1, 1], "offset": 0}}},
        {"layouts": {"self": {"stride": [2, 1], "offset": -5}}},
        {"layouts": {"self": {"stride": [2, 1, 1], "offset": 0}}},
    ],
)
def test_a_hostile_description_is_refused(change: dict[str, Any]) -> None:
    good = capsule_of(call_of(torch.ones(2, 2)), {})
    with pytest.raises(InputError):
        arguments_of(Capsule(content={**good.content, **change}, tensors=good.tensors), "c")


def test_a_header_is_plain_json(tmp_path: Path) -> None:
    stored = StoredTensor(dtype="F32", shape=(2,), data=bytes(8))
    write_capsule(tmp_path / "c.safetensors", Capsule(content={"op": "aten::sum"}, tensors={"x": stored}))
    raw = (tmp_path / "c.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["numguard"])["op"] == "aten::sum"
