"""What the native twin costs beside torch, and how many checks it makes of a budget.

Usage::

    python benchmarks/native_twin.py table                 statistics and checked sums against torch.sum
    python benchmarks/native_twin.py stock                 bfloat16 at 1e7 against sum(float64) and vector_norm
    python benchmarks/native_twin.py checks --width 256    checks a step with the twin and without, interleaved

Ratios of best times, variants interleaved in one process, one thread unless told otherwise.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping

import torch
from numguard_kernels.native import TWIN, Mode, checked_total, total_of
from numguard_kernels.native.library import VARIANTS
from small_gpt import Training

import numguard

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (10**5, 10**6, 3 * 10**7)
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


def table(threads: int) -> None:
    """Print the cost of one pass as a multiple of torch.sum in the same dtype, for each instruction set."""
    torch.set_num_threads(threads)
    TWIN.wait()
    library = TWIN.library()
    if library is None:
        raise SystemExit(f"there is no twin: {TWIN.reason}")
    print("| variant | dtype | elements | torch.sum | statistics | float64 lanes | two-float | checked_sum |")
    print("|---|---|---|---|---|---|---|---|")
    for number, variant in reversed(list(enumerate(VARIANTS))):
        if not library.ng_select(number):
            continue
        for dtype in DTYPES:
            for size in SIZES:
                x = torch.randn(size).to(dtype)
                pieces = {
                    "torch": x.sum,
                    "blocked": lambda x=x: total_of(library, x, Mode.BLOCKED, threads),
                    "double": lambda x=x: total_of(library, x, Mode.DOUBLE, threads),
                    "two_float": lambda x=x: total_of(library, x, Mode.TWO_FLOAT, threads),
                    "checked": lambda x=x: checked_total(library, x, threads),
                }
                best = _best(pieces, 7, max(2, min(60, 10**7 // size)))
                ratios = " | ".join(f"{best[name] / best['torch']:.2f}" for name in list(pieces)[1:])
                print(f"| {variant} | {str(dtype)[6:]} | {size:.0e} | {1e6 * best['torch']:.0f} us | {ratios} |")
    library.ng_select(-1)


def stock(threads: int) -> None:
    """Print the statistics of 1e7 bfloat16 numbers against the best that stock torch has for sum and sum of sizes."""
    torch.set_num_threads(threads)
    TWIN.wait()
    library = TWIN.library()
    if library is None:
        raise SystemExit(f"there is no twin: {TWIN.reason}")
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


def checks(width: int, num_blocks: int, budget: float, threads: int, seconds: float) -> None:
    """Print the checks that two guards make of one budget, with the twin and without, in interleaved blocks.

    No pair of blocks is begun that would not end within ``seconds``.
    """
    started = time.perf_counter()
    torch.set_num_threads(threads)
    steps = 200 if width == 64 else 40
    runs: dict[str, Training] = {}
    guards: dict[str, numguard.Guard] = {}
    counted = {name: [0, 0, 0.0, 0.0] for name in ("native", "torch")}
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
        for name in ("native", "torch") if block % 2 else ("torch", "native"):
            os.environ["NUMGUARD_BACKEND"] = name
            guard, run = guards[name], runs[name]
            guard.resume()
            before = guard.overhead
            for _ in range(steps):
                guard.step(run.step())
            after = guard.overhead
            guard.suspend()
            if block >= 0:
                for place, field in enumerate(("num_checks", "num_steps", "own_seconds", "elapsed_seconds")):
                    counted[name][place] += getattr(after, field) - getattr(before, field)
    guards["torch"].resume()
    guards["torch"].stop()
    guards["native"].stop()
    for name, (num_checks, num_steps, own, elapsed) in counted.items():
        print(
            f"width {width}, {budget:.1%}, {name}: {num_checks / max(1, num_steps):.3f} checks a step, {num_checks} in "
            f"{num_steps} of {1e3 * elapsed / max(1, num_steps):.0f} ms, own time {own / max(elapsed, 1e-9):.2%}, "
            f"interval {guards[name].overhead.interval}, {len(guards[name].findings)} findings"
        )
    rates = {name: num_checks / max(1, num_steps) for name, (num_checks, num_steps, _, _) in counted.items()}
    print(f"  {rates['native'] / max(rates['torch'], 1e-9):.2f} times as many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("table", "stock", "checks"))
    parser.add_argument("--width", type=int, default=256, choices=sorted(LENGTHS))
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--seconds", type=float, default=85.0, help="how long the checks may take")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.what == "table":
        table(given.threads)
    elif given.what == "stock":
        stock(given.threads)
    else:
        checks(given.width, given.blocks, given.budget, given.threads, given.seconds)


if __name__ == "__main__":
    main()
