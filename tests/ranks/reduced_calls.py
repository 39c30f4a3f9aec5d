"""One rank of a group that reduces: a program for tests, which writes what it found.

``python reduced_calls.py RANK NUM_RANKS FOLDER`` runs every scenario in its order.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import numguard
from numguard import FindingError, functional
from numguard.collectives import examination

RANK, NUM_RANKS = int(sys.argv[1]), int(sys.argv[2])
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = ((), (0,), (1,), (3, 5), (64,), (65,), (1000,), (70, 1001))
Fault = Callable[[Callable[..., Any], Tensor], None]
_torch_all_reduce = dist.all_reduce


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Let a fault happen around every all_reduce."""

    def faulty(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return fault(lambda: _torch_all_reduce(tensor, *args, **kwargs), tensor)

    dist.all_reduce = faulty
    try:
        yield
    finally:
        dist.all_reduce = _torch_all_reduce


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return numbers of this rank, of very different sizes."""
    generator = torch.Generator().manual_seed(1000 * seed + RANK)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x * torch.exp(2.0 * torch.randn(shape, generator=generator, dtype=torch.float64))).to(dtype)


class _Kept(logging.Handler):
    def __init__(self, records: list[str]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record.getMessage())


def _plain(finding: numguard.Finding) -> dict[str, Any]:
    fields = ("kind", "severity", "proof", "model", "confirmed", "op", "message", "location", "count")
    return {name: getattr(finding, name) for name in fields} | {"evidence": dict(finding.evidence)}


def _outcomes(call: Callable[[], object]) -> dict[str, Any]:
    """Return what a call leads to inside a guard, logged outside, and raised under strict."""
    functional._inquiries.inquiry = None
    with numguard.guard() as guard:
        call()
        guard.step(1.0)
    records: list[str] = []
    handler = _Kept(records)
    logging.getLogger("numguard").addHandler(handler)
    try:
        call()
    finally:
        logging.getLogger("numguard").removeHandler(handler)
    raised = None
    try:
        with functional.strict():
            call()
    except FindingError as error:
        raised = error.finding.kind
    return {
        "guard": [_plain(finding) for finding in guard.findings],
        "uncovered": {k: v for k, v in guard.coverage.uncovered.items() if k.startswith("all_reduce")},
        "logged": records,
        "raised": raised,
    }


def _bits(x: Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def clean() -> dict[str, Any]:
    """Reduce over dtypes, sizes and operations; return what was found, and where bits are not torch's."""
    different = []
    with numguard.guard() as guard, functional.strict():
        for operation in ("SUM", "AVG", "MIN", "MAX", "PRODUCT"):
            op = getattr(dist.ReduceOp, operation)
            for dtype in DTYPES:
                for seed, shape in enumerate(SIZES):
                    ours, theirs = drawn(shape, dtype, seed), drawn(shape, dtype, seed)
                    returned = functional.all_reduce(ours, op=op)
                    _torch_all_reduce(theirs, op)
                    if returned is not None or _bits(ours) != _bits(theirs):
                        different.append(f"{operation} {dtype} {shape}")
        guard.step(1.0)
    with functional.strict():
        for dtype in DTYPES:
            functional.all_reduce(drawn((7, 300), dtype))
            special = [float("inf"), float("-inf"), float("nan"), torch.finfo(dtype).max, 0.0]
            functional.all_reduce(torch.tensor(special * 30, dtype=dtype))
            functional.all_reduce(drawn((90,), dtype) * torch.finfo(dtype).smallest_normal)
            functional.all_reduce(torch.full((200,), torch.finfo(dtype).max, dtype=dtype))
            functional.all_reduce(torch.full((200,), 256.0 if RANK == 0 else 1.0, dtype=dtype))
        functional.all_reduce(torch.arange(9), op=dist.ReduceOp.MAX)
        functional.all_reduce(torch.ones(3, requires_grad=True))
    found = functional._inquiry().take()[0]
    return {
        "different": different,
        "findings": [_plain(f) for f in (*guard.findings, *found)],
        "uncovered": {k: v for k, v in guard.coverage.uncovered.items() if k.startswith("all_reduce")},
    }


def _one_element(reduce: Callable[[], Any], tensor: Tensor) -> None:
    reduce()
    if RANK == NUM_RANKS - 1:
        tensor.view(-1)[3] += 1.0


def _lost_block(reduce: Callable[[], Any], tensor: Tensor) -> None:
    if RANK == 0:
        tensor.view(-1)[100:130] = 0.0
    reduce()


def _nan(reduce: Callable[[], Any], tensor: Tensor) -> None:
    reduce()
    tensor.view(-1)[-1] = float("nan")


def _last_bit(reduce: Callable[[], Any], tensor: Tensor) -> None:
    reduce()
    if RANK == 0:
        tensor.view(-1).view(torch.int32)[-1] ^= 1


def _smaller(reduce: Callable[[], Any], tensor: Tensor) -> None:
    reduce()
    tensor.view(-1)[7] -= 1.0


def _of(shape: tuple[int, ...], op: Any = dist.ReduceOp.SUM) -> Callable[[], object]:
    return lambda: functional.all_reduce(drawn(shape, torch.float32), op)


def faults() -> dict[str, Any]:
    """Plant one fault after the other."""
    found = {}
    for name, fault, call in (
        ("one element", _one_element, _of((5, 8))),
        ("lost block", _lost_block, _of((50, 400))),
        ("nan", _nan, _of((50, 401))),
        ("last bit", _last_bit, _of((3000,))),
        ("minimum", _smaller, _of((60,), dist.ReduceOp.MIN)),
    ):
        with planted(fault):
            found[name] = _outcomes(call)
    return found


def _column() -> None:
    functional.all_reduce(drawn((6, 3), torch.float32)[:, 0])


def _layouts() -> None:
    layout = torch.channels_last if RANK == 0 else torch.contiguous_format
    functional.all_reduce(drawn((4, 3, 3, 3), torch.float32).to(memory_format=layout))


def _other_dtype() -> None:
    functional.all_reduce(torch.ones(8, dtype=torch.float32 if RANK else torch.int32))


def _doubled(x: Tensor) -> Tensor:
    functional.all_reduce(x)
    return x * 2.0


def passed_on() -> dict[str, Any]:
    """Make calls that are left to torch alone."""
    subgroup = dist.new_group([0])
    with numguard.guard() as guard:
        work = functional.all_reduce(torch.ones(3), async_op=True)
        assert work is not None
        work.wait()
        functional.all_reduce(torch.eye(3).to_sparse())
        if RANK == 0:
            x = torch.full((70,), 3.0)
            functional.all_reduce(x, group=subgroup)
            assert x.tolist() == [3.0] * 70
        guard.step(1.0)
    os.environ["NUMGUARD"] = "off"
    with planted(_one_element), functional.strict():
        functional.all_reduce(drawn((9,), torch.float32))
    del os.environ["NUMGUARD"]
    compiled = torch.full((70,), 1.0)
    if NUM_RANKS == 2:
        torch.compile(_doubled, backend="eager", fullgraph=True)(compiled)
    refused = []
    for arguments in (("no tensor",), (torch.ones(2).to(torch.float8_e4m3fn),)):
        texts = []
        for function in (functional.all_reduce, _torch_all_reduce):
            try:
                function(*arguments)
            except (TypeError, RuntimeError) as error:
                texts.append(f"{type(error).__name__}: {str(error)[:60]}")
        refused.append(texts)
    return {
        "uncovered": {k: v for k, v in guard.coverage.uncovered.items() if k.startswith("all_reduce")},
        "findings": [_plain(finding) for finding in guard.findings],
        "refused": refused,
        "compiled": compiled.unique().tolist(),
    }


def one_rank_looks_away() -> dict[str, Any]:
    """Pause the guard of rank 0, and have none on the last rank."""
    if RANK == NUM_RANKS - 1:
        functional._inquiries.inquiry = None
        with planted(_nan):
            functional.all_reduce(drawn((9,), torch.float32))
        return {"kinds": []}
    with numguard.guard() as guard, planted(_nan):
        if RANK == 0:
            with guard.pause():
                functional.all_reduce(drawn((9,), torch.float32))
        else:
            functional.all_reduce(drawn((9,), torch.float32))
        guard.step(1.0)
    return {"kinds": [finding.kind for finding in guard.findings]}


def broken_notes() -> dict[str, Any]:
    """Let rank 0 fail to take notes, then fail to look at the result, then let the notes arrive changed on rank 0."""
    found = {}
    all_gather = dist.all_gather

    def fails(*args: Any) -> Any:
        raise RuntimeError("planted")

    def changed(parts: list[Tensor], *args: Any, **kwargs: Any) -> None:
        all_gather(parts, *args, **kwargs)
        if RANK == 0 and parts[1].is_floating_point():
            parts[1][-1] = 77.0

    for name, module, attribute, value in (
        ("notes", examination, "record_of", fails if RANK == 0 else examination.record_of),
        ("look", examination, "judge_blocks", fails if RANK == 0 else examination.judge_blocks),
        ("transport", dist, "all_gather", changed),
    ):
        before = getattr(module, attribute)
        setattr(module, attribute, value)
        found[name] = _outcomes(_of((9, 99)))
        setattr(module, attribute, before)
    return found


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[3])
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=RANK, world_size=NUM_RANKS, timeout=timedelta(seconds=60))
    answer = {
        "clean": clean(),
        "faults": faults(),
        "column": _outcomes(_column),
        "layouts": _outcomes(_layouts),
        "other dtype": _outcomes(_other_dtype),
        "broken notes": broken_notes(),
        "passed on": passed_on(),
        "looks away": one_rank_looks_away(),
    }
    (folder / f"rank{RANK}.json").write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
