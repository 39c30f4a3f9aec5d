"""Collectives between two processes: every layout of the tensors, the same on both ranks or not.

The data are small integers, so that every sum is exact: a collective returns the right numbers or it does not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

import numguard
from numguard.acceptance.adversaries import LAYOUTS
from numguard.acceptance.examination import Sighting
from numguard.acceptance.red_zones import overwritten, surroundings
from numguard.acceptance.trials import DTYPES, Trial
from numguard.finding import fingerprint

NUM_RANKS: Final = 2
SHAPE: Final = (2, 3, 4, 5)
_SECONDS: Final = 60.0
Case = tuple[str, str, str, str]


def _all_reduce(rank: int, x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x


def _reduce(rank: int, x: Tensor) -> Tensor:
    dist.reduce(x, 0)
    return x


def _broadcast(rank: int, x: Tensor) -> Tensor:
    dist.broadcast(x, 0)
    return x


def _all_gather(rank: int, x: Tensor) -> Tensor:
    parts = [torch.empty(SHAPE, dtype=x.dtype) for _ in range(NUM_RANKS)]
    dist.all_gather(parts, x)
    return torch.stack(parts)


def _scatter(rank: int, x: Tensor) -> Tensor:
    out = torch.empty(SHAPE, dtype=x.dtype)
    dist.scatter(out, [x for _ in range(NUM_RANKS)] if rank == 0 else None, 0)
    return out


#: The call, what it has to return on a rank given the inputs of all, and the name of what is written.
COLLECTIVES: Final[
    Mapping[str, tuple[Callable[[int, Tensor], Tensor], Callable[[int, list[Tensor]], Tensor | None]]]
] = {
    "all_reduce": (_all_reduce, lambda rank, every: every[0] + every[1]),
    "reduce": (_reduce, lambda rank, every: every[0] + every[1] if rank == 0 else None),
    "broadcast": (_broadcast, lambda rank, every: every[0]),
    "all_gather": (_all_gather, lambda rank, every: torch.stack(every)),
    "scatter": (_scatter, lambda rank, every: every[0]),
}


def cases() -> Iterator[Case]:
    """Yield collective, dtype, and the layout on either rank."""
    for name in COLLECTIVES:
        for dtype in ("float32", "bfloat16"):
            for layout in LAYOUTS:
                if layout != "repeated":
                    yield name, dtype, layout, layout
        for layout in ("transposed", "channels_last"):
            yield name, "float32", layout, "contiguous"


def drawn(rank: int, dtype: torch.dtype) -> Tensor:
    """Return the input of a rank, row-major."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(-8, 9, SHAPE, generator=generator).to(dtype)


def _judged(rank: int, case: Case) -> tuple[float, bool] | str:
    """Return the largest error and whether memory around the tensor was overwritten, or why it was refused."""
    name, dtype_name, *layouts = case
    call, expected = COLLECTIVES[name]
    dtype = DTYPES[dtype_name]
    x = LAYOUTS[layouts[rank]](drawn(rank, dtype))
    around = surroundings({"x": x})
    try:
        result = call(rank, x)
    except (RuntimeError, ValueError) as refusal:
        return str(refusal).partition("\n")[0]
    want = expected(rank, [drawn(number, dtype) for number in range(NUM_RANKS)])
    error = 0.0 if want is None else float((result.double() - want.double()).abs().max())
    return error, bool(overwritten(around))


def examine_collectives(device: str = "cpu") -> list[Sighting]:
    """Run every case between two processes of their own and return what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [_started(rank, folder) for rank in range(NUM_RANKS)]
        answers: list[list[Any]] = []
        try:
            for process in processes:
                out, _ = process.communicate(timeout=_SECONDS)
                answers.append([json.loads(line) for line in out.splitlines() if line.startswith("[")])
        except subprocess.TimeoutExpired:
            return []
        finally:
            for process in processes:
                process.kill()
                process.wait()
    found = []
    for case, *results in zip(cases(), *answers, strict=False):
        wrong = [result for result in results if isinstance(result, list) and (result[0] > 0 or result[1])]
        if wrong:
            found.append(_sighting(case, wrong))
    return found


def _started(rank: int, folder: str) -> "subprocess.Popen[str]":
    root = Path(numguard.__file__).parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "numguard.acceptance.collectives", str(rank), folder]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def _sighting(case: Case, wrong: list[list[Any]]) -> Sighting:
    name, dtype, *layouts = case
    error = max(result[0] for result in wrong)
    overwrites = any(result[1] for result in wrong)
    same = layouts[0] == layouts[1]
    where = f"{layouts[0]} tensors" if same else f"a {layouts[0]} tensor on rank 0 and a {layouts[1]} one on rank 1"
    damage = "; it also overwrites memory that the tensor does not cover" if overwrites else ""
    way = "one layout" if same else "two layouts"
    return Sighting(
        fingerprint=fingerprint("collective_mismatch", name, "gloo", dtype, way),
        kind="collective_mismatch",
        severity="error",
        subject=f"torch.distributed.{name}",
        trial=Trial(subject=f"torch.distributed.{name}", dtype=dtype, sizes=(), layout=layouts[0]),
        op=f"c10d::{name}",
        proof="exact",
        model="proved",
        confirmed="exact",
        forward_error=error,
        error_bound=0.0,
        ratio=float("inf"),
        message=f"{name} of {where} in {dtype} over gloo is off by {error:.6g} on integers, where it is exact{damage}",
        advice="Make tensors contiguous before a collective, and copy the result back.",
        evidence={"layouts": layouts, "same_layout": same, "overwrites": overwrites},
    )


_SCRIPT: Final = '''"""{message}

Exits with 1 where this build of torch is wrong, with 0 where it is right.
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor

SHAPE = {shape}


{sources}
def drawn(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(-8, 9, SHAPE, generator=generator).to(torch.{dtype})


def work(rank, place):
    dist.init_process_group("gloo", init_method="file://" + place, rank=rank, world_size=2)
    x = [{first}, {second}][rank](drawn(rank))
{body}
    dist.barrier()
    dist.destroy_process_group()
    error = 0.0 if want is None else (got.double() - want.double()).abs().max().item()
    print(f"rank {{rank}}: error {{error}}")
    sys.exit(1 if error else 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        started = [processes.Process(target=work, args=(rank, os.path.join(folder, "store"))) for rank in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join()
    sys.exit(1 if any(process.exitcode for process in started) else 0)
'''
_BODIES: Final[Mapping[str, str]] = {
    "all_reduce": "dist.all_reduce(x)\ngot, want = x, drawn(0) + drawn(1)",
    "reduce": "dist.reduce(x, 0)\ngot, want = x, drawn(0) + drawn(1) if rank == 0 else None",
    "broadcast": "dist.broadcast(x, 0)\ngot, want = x, drawn(0)",
    "all_gather": (
        "parts = [torch.empty(SHAPE, dtype=x.dtype) for _ in range(2)]\ndist.all_gather(parts, x)\n"
        "got, want = torch.stack(parts), torch.stack([drawn(0), drawn(1)])"
    ),
    "scatter": (
        "got = torch.empty(SHAPE, dtype=x.dtype)\ndist.scatter(got, [x, x] if rank == 0 else None, 0)\nwant = drawn(0)"
    ),
}


def script_of_collective(sighting: Sighting) -> str:
    """Return the stand-alone reproducer of what a collective does wrong."""
    import inspect
    import textwrap

    layouts = sighting.evidence["layouts"]
    sources = "\n\n".join(inspect.getsource(LAYOUTS[name]) for name in dict.fromkeys(layouts))
    return _SCRIPT.format(
        message=f"{sighting.kind}: {sighting.message}",
        shape=SHAPE,
        sources=sources + "\n",
        dtype=sighting.trial.dtype,
        first=layouts[0],
        second=layouts[1],
        body=textwrap.indent(_BODIES[sighting.subject.rpartition(".")[2]], "    "),
    )


def _work(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_RANKS)
    for case in cases():
        print(json.dumps([*judged] if not isinstance(judged := _judged(rank, case), str) else [0.0, False]), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _work(int(sys.argv[1]), sys.argv[2])
