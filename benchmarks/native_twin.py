"""What the native twin costs beside torch, and how many checks it makes of a budget.

Usage::

    python benchmarks/native_twin.py table                 statistics and checked sums against torch.sum, by
                                                           instruction set, each in a process of its own
    python benchmarks/native_twin.py stock                 bfloat16 at 1e7 against sum(float64) and vector_norm
    python benchmarks/native_twin.py families              one check of each family with the twin and without
    python benchmarks/native_twin.py checks --width 256    checks a step with the twin and without, interleaved

Ratios of best times, variants interleaved in one process, one thread unless told otherwise.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numguard_kernels.native import TWIN, Mode, checked_total, total_of
from numguard_kernels.native.library import VARIANTS
from small_gpt import Training

import numguard
from numguard.checks import REGISTRY
from numguard.checks.check import Check, Probe
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind, overload_name
from numguard.shadow.routes import NATIVE, NUMPY
from numguard.shadow.verdict import evaluate_on_host

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (10**5, 10**6, 3 * 10**7)
#: What ATEN_CPU_CAPABILITY keeps torch to, by the variant of the twin that has the same instructions.
CAPABILITIES = {"avx512": "avx512", "avx2": "avx2", "generic": "default"}
LENGTHS = {64: 64, 256: 128}


def _best(pieces: Mapping[str, Callable[[], object]], rounds: int, repetitions: int) -> dict[str, float]:
    """Return the best seconds of each piece; the pieces take turns."""
    best = dict.fromkeys(pieces, float("inf"))
    for _ in range(rounds):
        for name, piece in pieces.items():
            for _ in range(repetitions):
                began = time.perf_counter()
                piece()
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def _library() -> Any:
    TWIN.wait()
    library = TWIN.library()
    if library is None:
        raise SystemExit(f"there is no twin: {TWIN.reason}")
    return library


def table(threads: int) -> None:
    """Print the cost of one pass as a multiple of torch.sum, variant by variant.

    A variant is compared with a torch that may use the same instructions, and with one that may use all that the
    machine has. What torch uses is settled when it is imported, so each comparison has a process of its own.
    """
    library = _library()
    variants = [name for number, name in enumerate(VARIANTS) if library.ng_select(number)]
    variants = variants[1:] or variants  # plain vectors where there is nothing better
    library.ng_select(-1)
    everything = torch.backends.cpu.get_cpu_capability().lower()
    print(f"torch {torch.__version__}, {platform.machine()} with {everything}, {threads} thread(s)")
    print("Multiples of the time of torch.sum of the same tensor in the same process, best of 15 rounds in turn.")
    print("| variant | torch may use | dtype | elements | torch.sum | statistics | float64 lanes | checked_sum |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for variant in reversed(variants):
        for allowed in dict.fromkeys((CAPABILITIES[variant], everything)):
            subprocess.run(
                [sys.executable, __file__, "rows", "--variant", variant, "--threads", str(threads)],
                env={**os.environ, "ATEN_CPU_CAPABILITY": allowed},
                check=True,
            )


def rows(variant: str, threads: int) -> None:
    """Print the rows of one variant, against the torch of this process."""
    torch.set_num_threads(threads)
    library = _library()
    if not library.ng_select(VARIANTS.index(variant)):
        raise SystemExit(f"this machine has no {variant}")
    allowed = torch.backends.cpu.get_cpu_capability().lower()
    for dtype in DTYPES:
        for size in SIZES:
            x = torch.randn(size).to(dtype)
            pieces: dict[str, Callable[[], object]] = {
                "torch": partial(torch.sum, x),
                "blocked": partial(total_of, library, x, Mode.BLOCKED, threads),
                "double": partial(total_of, library, x, Mode.DOUBLE, threads),
                "checked": partial(checked_total, library, x, threads),
            }
            best = _best(pieces, 15, max(10, min(200, 10**7 // size)))
            ratios = " | ".join(f"{best[name] / best['torch']:.2f}" for name in list(pieces)[1:])
            seconds = f"{1e6 * best['torch']:,.{int(size < 10**6)}f} us"
            print(f"| {variant} | {allowed} | {str(dtype)[6:]} | {size:.0e} | {seconds} | {ratios} |", flush=True)


def stock(threads: int) -> None:
    """Print the statistics of 1e7 bfloat16 numbers against the best that stock torch has for sum and sum of sizes."""
    torch.set_num_threads(threads)
    library = _library()
    x = torch.randn(10**7).to(torch.bfloat16)
    pieces = {
        "twin": lambda: total_of(library, x, Mode.BLOCKED, threads),
        "stock": lambda: (x.sum(dtype=torch.float64), torch.linalg.vector_norm(x, 1, dtype=torch.float64)),
    }
    best = _best(pieces, 7, 2)
    print(
        f"bfloat16, 1e7: twin {1e3 * best['twin']:.2f} ms, sum(float64) + vector_norm {1e3 * best['stock']:.1f} ms: ",
        end="",
    )
    print(f"{best['stock'] / best['twin']:.0f} x")


def _calls() -> Iterator[tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]]:
    """Yield calls of a small GPT's step: width 256, four times 128 tokens, four heads."""
    aten = torch.ops.aten
    x, weight, bias = torch.randn(4, 128, 256), torch.randn(256), torch.randn(256)
    _, mean, rstd = aten.native_layer_norm(x, [256], weight, bias, 1e-5)
    yield aten.native_layer_norm.default, (x, [256], weight, bias, 1e-5), {}
    given = (torch.randn_like(x), x, [256], mean, rstd, weight, bias, [True, True, True])
    yield aten.native_layer_norm_backward.default, given, {}
    rows, factor = torch.randn(512, 256), torch.randn(256, 768)
    yield aten.mm.default, (rows, factor), {}
    yield aten.addmm.default, (torch.randn(768), rows, factor), {}
    yield aten.sum.dim_IntList, (torch.randn(512, 768), [0]), {}
    query, key, value, grad = (torch.randn(4, 128, 4, 64).transpose(1, 2) for _ in range(4))
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    yield forward, (query, key, value, 0.0, True), {}
    out, logsumexp = forward(query, key, value, 0.0, True)
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    yield backward, (grad, query, key, value, out, logsumexp, 0.0, True), {}
    tokens = torch.randint(0, 512, (4, 128))
    yield aten.embedding_dense_backward.default, (x, tokens, 512, -1, False), {}
    yield aten.addcdiv_.default, (torch.randn(256, 1024), torch.randn(256, 1024), torch.rand(256, 1024) + 1.0), {}
    logits = torch.randn(512, 512)
    yield aten._log_softmax.default, (logits, 1, False), {}


def families(limit: float) -> None:
    """Print the best cost of one check of each family: what it captures, judges and weighs, warm."""
    torch.set_num_threads(1)
    print("| operator | with the twin | NumPy and torch | times |")
    print("|---|---|---|---|")
    for op, args, kwargs in _calls():
        check = next(check for check in REGISTRY.values() if overload_name(op) in check.ops)
        arguments = bind(op, args, kwargs)
        call = OpCall(overload=op, arguments=arguments, output=op(*args, **kwargs))

        def once(name: str, route: Arithmetic, check: Check = check, call: OpCall = call) -> None:
            os.environ["NUMGUARD_BACKEND"] = name
            probe = Probe(arithmetic=route, limit=limit, offset=0.3)
            with torch.no_grad():
                captured = check.capture(call, probe) if check.capture else None
                for comparison in check.judge(call, captured, probe):
                    evaluate_on_host(comparison)

        pieces = {"native": lambda: once("native", NATIVE), "torch": lambda: once("torch", NUMPY)}
        best = _best(pieces, 9, 6)
        print(
            f"| `{overload_name(op)[6:]}` | {1e6 * best['native']:.0f} us | {1e6 * best['torch']:.0f} us | "
            f"{best['torch'] / best['native']:.1f} |"
        )


def checks(width: int, num_blocks: int, budget: float, threads: int, seconds: float) -> None:
    """Print the checks that two guards make of one budget, with the twin and without, in interleaved blocks.

    A pair of blocks in which an alarm on the loss armed a burst is left out: that is outside of the budget. No pair is
    begun that would not end within ``seconds``.
    """
    started = time.perf_counter()
    torch.set_num_threads(threads)
    steps = 200 if width == 64 else 20
    runs: dict[str, Training] = {}
    guards: dict[str, numguard.Guard] = {}
    fields = ("num_checks", "num_steps", "own_seconds", "elapsed_seconds", "burst_seconds")
    counted = {name: np.zeros(len(fields)) for name in ("native", "torch")}
    for name in counted:
        os.environ["NUMGUARD_BACKEND"] = name
        runs[name] = Training(width, LENGTHS[width])
        guards[name] = numguard.guard(runs[name].model, runs[name].optimizer, budget=budget)
    for guard in guards.values():
        guard.start()  # the second suspends the first
    guards["torch"].suspend()
    for block in range(-2, num_blocks):  # the first blocks agree on an interval and visit every site
        began = time.perf_counter()
        if block > 0 and began - started + (began - started) / (block + 2) > seconds:
            break
        pair: dict[str, Any] = {}
        for name in ("native", "torch") if block % 2 else ("torch", "native"):
            os.environ["NUMGUARD_BACKEND"] = name
            guard, run = guards[name], runs[name]
            guard.resume()
            before = guard.overhead
            for _ in range(steps):
                guard.step(run.step())
            after = guard.overhead
            guard.suspend()
            pair[name] = np.array([getattr(after, field) - getattr(before, field) for field in fields])
        if block >= 0 and not any(spent[-1] for spent in pair.values()):
            for name, spent in pair.items():
                counted[name] += spent
    guards["torch"].resume()
    guards["torch"].stop()
    guards["native"].stop()
    for name, (num_checks, num_steps, own, elapsed, _) in counted.items():
        print(
            f"width {width}, {budget:.1%}, {name}: {num_checks / max(1, num_steps):.3f} checks a step, "
            f"{num_checks:.0f} in {num_steps:.0f} of {1e3 * elapsed / max(1, num_steps):.0f} ms, "
            f"own time {own / max(elapsed, 1e-9):.2%}, "
            f"interval {guards[name].overhead.interval}, {len(guards[name].findings)} findings"
        )
    rates = {name: spent[0] / max(1, spent[1]) for name, spent in counted.items()}
    print(f"  {rates['native'] / max(rates['torch'], 1e-9):.2f} times as many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("table", "rows", "stock", "families", "checks"))
    parser.add_argument(
        "--variant", default=VARIANTS[-1], choices=VARIANTS, help="whose rows: one variant of the table"
    )
    parser.add_argument("--limit", type=float, default=9e4, help="operations that a check of a family may spend")
    parser.add_argument("--width", type=int, default=256, choices=sorted(LENGTHS))
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--seconds", type=float, default=85.0, help="how long the checks may take")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.what == "table":
        table(given.threads)
    elif given.what == "rows":
        rows(given.variant, given.threads)
    elif given.what == "stock":
        stock(given.threads)
    elif given.what == "families":
        families(given.limit)
    else:
        checks(given.width, given.blocks, given.budget, given.threads, given.seconds)


if __name__ == "__main__":
    main()
