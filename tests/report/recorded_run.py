"""A realistic run, written through the event log itself: 400 steps, 2 ranks, one wrong sum with two symptoms."""

import math
import random
from pathlib import Path
from typing import Any

from numguard.finding import Finding, fingerprint
from numguard.records import EventLog, Log, finding_fields

HOSTS = ("node-0017", "node-0018")
NUM_STEPS, CAUGHT, CLEAN = 400, 120, 118

_OPS = (
    ("aten.sum.dim_IntList", "loss", "train.py:88", "forward"),
    ("aten.native_layer_norm.default", "blocks.0.norm", "model.py:41", "forward"),
    ("aten.native_layer_norm_backward.default", "blocks.0.norm", "model.py:41", "backward"),
    ("aten.mm.default", "blocks.0.mlp.up", "model.py:57", "backward"),
    ("aten.addmm.default", "blocks.0.mlp.down", "model.py:58", "forward"),
    ("aten._scaled_dot_product_flash_attention.default", "blocks.1.attention", "model.py:33", "forward"),
    ("aten._fused_adamw_.default", "optimizer", "train.py:93", "optimizer"),
    ("aten.embedding_dense_backward.default", "tokens", "model.py:21", "backward"),
)


def start_fields(rank: int, *, attempt: int = 0, world_size: int = 2) -> dict[str, Any]:
    return {
        "step": 0,
        "version": "0.1.0",
        "torch": "2.13.0",
        "rank": rank,
        "world_size": world_size,
        "host": HOSTS[rank % len(HOSTS)],
        "device": f"cuda:{rank}",
        "device_uuid": f"GPU-4f1c{rank:04d}",
        "pid": 4_000 + rank,
        "attempt": attempt,
        "seed": 0,
        "budget": 0.01,
        "checks": ["sums", "norms", "contractions"],
        "time": 1.7e9 + rank,
    }


def wrong_sum(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "id": "r1-0001",
        "fingerprint": fingerprint("wrong_result", "sum", "float32", "loss"),
        "kind": "wrong_result",
        "severity": "error",
        "proof": "bound",
        "model": "proved",
        "first_caught_step": CAUGHT,
        "last_clean_step": CLEAN,
        "count": 12,
        "checked": 340,
        "rank": 1,
        "host": HOSTS[1],
        "device": "cuda:1",
        "phase": "forward",
        "op": "aten.sum.dim_IntList",
        "module": "loss",
        "location": "train.py:88",
        "forward_error": 0.7421875,
        "error_bound": 3.2e-5,
        "ratio": 23_193.0,
        "message": "sum over 4,096 float32 values gave 311.25; no order of additions gives less than 311.99",
        "advice": "Compute this sum in another way, for example as a product with ones, until the build is replaced.",
        "evidence": {"shape": [8, 4096], "dtype": "float32", "index": 5, "computed": 311.25, "exact": 311.9921875},
        "confirmed": "re-executed",
    }
    return Finding(**{**fields, **changes})


def symptoms() -> tuple[Finding, Finding]:
    common: dict[str, Any] = {
        "severity": "warning",
        "rank": 1,
        "host": HOSTS[1],
        "device": "cuda:1",
        "cause": "r1-0001",
    }
    spike = Finding(
        id="r1-0002",
        fingerprint=fingerprint("loss_spike"),
        kind="loss_spike",
        first_caught_step=131,
        message="the loss is 7.1 robust deviations above its reference",
        **common,
    )
    norm = Finding(
        id="r1-0003",
        fingerprint=fingerprint("loss_noise", "grad_norm"),
        kind="loss_noise",
        first_caught_step=164,
        message="the spread of the gradient norm doubled",
        **common,
    )
    return spike, norm


def write_steps(log: Log, num_steps: int = NUM_STEPS, *, seed: int = 0) -> None:
    noise = random.Random(seed)
    for step in range(num_steps):
        loss = 2.1 + 3.4 * math.exp(-step / 90) + noise.gauss(0, 0.035) + (0.5 if step in (131, 132) else 0.0)
        armed = step % 11 == 0
        log.write("step", step=step, loss=loss, step_seconds=0.21, own_seconds=0.0018 * step, armed=armed, lr=3e-4)


def coverage_fields(*, step: int = NUM_STEPS) -> dict[str, Any]:
    sites = [
        {
            "op": op,
            "module": module,
            "location": location,
            "phase": phase,
            "dtype": "float32",
            "shape": "2d,2^15",
            "seen": 900 - 70 * index,
            "checked": 0 if index == 7 else 340 - 40 * index,
            "worst_ratio": 23_193.0 if index == 0 else 0.31 / (index + 1),
            "detectable_rate": 1.0 if index == 7 else 1 - 0.05 ** (1 / (340 - 40 * index)),
        }
        for index, (op, module, location, phase) in enumerate(_OPS)
    ]
    uncovered = {"fused reduction inside a compiled graph": 4_120, "sparse tensor": 12}
    return {
        "step": step,
        "sites": sites,
        "uncovered": uncovered,
        "first_coverage_step": 44,
        "num_calls_seen": 5_240,
        "num_checks": 1_540,
    }


def write_run(run_dir: Path, *, ranks: tuple[int, ...] = (0, 1), faulty: bool = True) -> Path:
    """Write the run and return its directory; ``faulty=False`` leaves the findings out."""
    for rank in ranks:
        log = EventLog(run_dir, rank=rank, attempt=0)
        log.write("start", **start_fields(rank))
        log.write("selftest", step=0, passed=True, stage="", detail="")
        if rank == 0:
            write_steps(log)
        if rank == 1 and faulty:
            for finding in (wrong_sum(count=1, checked=41), *symptoms(), wrong_sum()):
                log.write("finding", **finding_fields(finding))
            log.write("burst", step=132, reason="loss_spike", steps=8)
        log.write("coverage", **coverage_fields())
        log.write(
            "cost",
            step=NUM_STEPS,
            own_seconds=0.72 + 0.05 * rank,
            elapsed_seconds=84.0,
            num_armed_steps=44,
            num_checks=1_540,
            budget=0.01,
        )
        shares = {"blocks.0.norm": 0.0, "tokens": 0.0031}
        log.write("lost_updates", step=NUM_STEPS, shares=shares, window=200)
        log.write("stop", step=NUM_STEPS, time=1.7e9 + 90, reason="end of the block")
        log.close()
        assert log.num_dropped == 0, log.last_failure
    return run_dir
