"""The injection campaign: faults under the kernels, sized against B, in small guarded training steps.

Run ``python -m benchmarks.campaigns.injections``; it prints what went wrong and writes ``docs/injections.md``.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.campaigns.extended_values import require_extended_precision
from benchmarks.campaigns.injection_document import document
from benchmarks.campaigns.injection_plan import cases, run, sample
from benchmarks.campaigns.injection_runs import Outcome

BAD = frozenset({"missed", "misnamed", "false alarm"})


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; return 1 where a fault was missed, misnamed or reported without cause."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, help="only so many, evenly spaced; nothing is written then")
    parser.add_argument("--output", type=Path, default=Path("docs/injections.md"))
    options = parser.parse_args(arguments)
    require_extended_precision()
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)  # thousands of findings are expected
    began, outcomes = time.perf_counter(), list[Outcome]()
    wanted = cases() if options.cases is None else sample(options.cases)
    for number, case in enumerate(wanted, 1):
        outcome = run(case)
        outcomes.append(outcome)
        if outcome.verdict in BAD:
            print(f"{outcome.verdict}: {case.name}: {outcome.ratio:.4g} B. {outcome.detail}")
        if number % 100 == 0:
            print(f"{number:,} of {len(wanted):,}", file=sys.stderr)
    tally = Counter(outcome.verdict for outcome in outcomes)
    print(", ".join(f"{count} {verdict}" for verdict, count in tally.most_common()))
    if options.cases is None:
        text = document(
            outcomes,
            command="python -m benchmarks.campaigns.injections",
            date=time.strftime("%d %B %Y", time.gmtime()),
            seconds=time.perf_counter() - began,
        )
        options.output.write_text(text, encoding="utf-8")
    return int(any(outcome.verdict in BAD for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
