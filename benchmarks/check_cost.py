"""What a complete check of one call costs, as a ratio to the operator itself, by family, measured in one run.

Usage::

    python -m benchmarks.check_cost

The operators are those inside the audit's subjects, forward and backward, with tensors of up to 2^16 elements. An
operator and its check take turns within one process, so that whatever else the machine does moves both sides of the
ratio. The table shows medians over calls: of a complete check, and of the sample that a guard on a budget takes.
"""

import argparse
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import torch

from benchmarks.campaigns.clean_elements import trial_of
from benchmarks.campaigns.clean_subjects import clean_subjects
from benchmarks.campaigns.planted_control import REFUSALS
from numguard.acceptance.trials import draw_all, run_trial
from numguard.checks import Check, Probe
from numguard.checks.examination import examine
from numguard.inquiry import checked_operators
from numguard.interception.mode import ArmedMode
from numguard.shadow.call import OpCall, bind, tensors_in
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import routes_for

NUM_TURNS: Final = 3
SMALLEST: Final = 1 << 12  # elements of the largest input of a call that is timed
#: Multiply-adds of a sample: what a guard at its default budget spends at most on one check.
SAMPLED: Final = float(1 << 16)
Times = tuple[float, float, float]  # operator, complete check, sampled check, in seconds


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _measured(check: Check, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Times:
    """Return the shortest times of a call that may be repeated, of its complete check and of a sampled one."""
    route = routes_for(check.family, "cpu")[0]
    call = OpCall(overload=func, arguments=bind(func, args, kwargs))
    complete, sampled = Probe(arithmetic=route), Probe(arithmetic=route, limit=SAMPLED)
    captured = [check.capture(call, probe) if check.capture else None for probe in (complete, sampled)]
    output = func(*args, **kwargs)
    done = OpCall(overload=func, arguments=call.arguments, output=output)
    turns = [
        (
            _seconds(lambda: func(*args, **kwargs)),
            _seconds(lambda: examine(check, done, captured[0], complete)),
            _seconds(lambda: examine(check, done, captured[1], sampled)),
        )
        for _ in range(NUM_TURNS)
    ]
    return min(turn[0] for turn in turns), min(turn[1] for turn in turns), min(turn[2] for turn in turns)


def measure(limit_seconds: float) -> dict[tuple[str, str], list[Times]]:
    """Return the times of every call in every subject, by family of the check and dtype."""
    times: dict[tuple[str, str], list[Times]] = defaultdict(list)
    for turn in (0, 1):  # float32, then bfloat16
        _measure_subjects(times, turn, time.monotonic() + limit_seconds / 2)
    return times


def _measure_subjects(times: dict[tuple[str, str], list[Times]], turn: int, end: float) -> None:
    table = checked_operators()
    for subject in clean_subjects():
        trial = trial_of(subject, turn, 0, enlarged=1 << 16)

        def observe(
            func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: str = trial.dtype
        ) -> Any:
            largest = max((tensor.numel() for value in args for tensor in tensors_in(value)), default=0)
            if largest >= SMALLEST and not func._schema.is_mutable:
                check = table[func][0]
                with suppress(NotCovered):
                    times[check.family, dtype].append(_measured(check, func, args, kwargs))
            return func(*args, **kwargs)

        with suppress(*REFUSALS), ArmedMode(table, observe):
            run_trial(subject, trial, draw_all(subject, trial))
        if time.monotonic() > end:
            return


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = measure(arguments.seconds)
    print("| family | dtype | calls | operator, us | complete check / operator | sampled check / operator |")
    print("|---|---|---|---|---|---|")
    for (family, dtype), calls in sorted(times.items()):
        operator = 1e6 * statistics.median(call[0] for call in calls)
        ratios = (statistics.median(call[place] / call[0] for call in calls) for place in (1, 2))
        print(
            f"| {family} | {dtype} | {len(calls)} | {operator:.0f} |" + "".join(f" {ratio:.1f} |" for ratio in ratios)
        )


if __name__ == "__main__":
    main()
