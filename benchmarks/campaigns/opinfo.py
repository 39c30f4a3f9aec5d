"""PyTorch's own sample inputs under exhaustive checks: nothing right may be called wrong, and every fault must be.

Usage, from the repository's root::

    python -m benchmarks.campaigns.opinfo run --record opinfo.jsonl
    python -m benchmarks.campaigns.opinfo page opinfo.jsonl --out docs/opinfo.md

``run`` takes ``--part 0/8`` for every eighth entry of ``op_db`` and ``--only REGEX`` for some of them. It ends with
status 1 for an error that no listed defect of PyTorch explains, or for a fault that was not found.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.campaigns.opinfo_defects import defect_of
from benchmarks.campaigns.opinfo_page import page
from benchmarks.campaigns.opinfo_runs import DTYPES, Alarm, SampleRun, Tally, entries, entry_name, run_entries


def complaints(run: SampleRun) -> list[str]:
    """Return what is wrong with a run: errors that no defect explains, and faults that were not found."""
    found = [
        f"{alarm.kind} of {alarm.op} ({alarm.output}), {alarm.phase}, sample {alarm.sample}: {alarm.message}"
        for alarm in run.alarms
        if defect_of(alarm, run.dtype) is None
    ]
    return found + [f"control: {op} was wrong, and not found" for op, seen in run.controls.items() if seen is False]


def from_fields(fields: dict[str, Any]) -> SampleRun:
    """Return the run that a line of a record holds."""
    return SampleRun(
        **fields
        | {
            "operators": {op: Tally(**tally) for op, tally in fields["operators"].items()},
            "alarms": [Alarm(**alarm) for alarm in fields["alarms"]],
        }
    )


def read_record(path: str) -> list[SampleRun]:
    """Return the runs of a record."""
    return [from_fields(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run(arguments: argparse.Namespace) -> int:
    """Run entries, print and record each; return how many were not as they should be."""
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)  # the controls are found, loudly
    share, num_shares = (int(part) for part in arguments.part.split("/"))
    chosen = [entry for entry in entries() if re.fullmatch(arguments.only, entry_name(entry))][share::num_shares]
    bad = 0

    def tell(run: SampleRun) -> None:
        nonlocal bad
        wrong = complaints(run)
        bad += bool(wrong)
        if wrong:
            print(f"{run.entry} {run.dtype}:", *wrong, sep="\n    ", flush=True)
        with open(arguments.record, "a", encoding="utf-8") as record:
            record.write(json.dumps(asdict(run)) + "\n")

    run_entries(chosen, arguments.dtypes.split(","), arguments.seed, tell)
    return bad


def main(given: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--part", default="0/1")
    running.add_argument("--only", default=".*")
    running.add_argument("--dtypes", default=",".join(DTYPES))
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--record", default="opinfo.jsonl")
    writing = commands.add_parser("page")
    writing.add_argument("records", nargs="+")
    writing.add_argument("--out", default="docs/opinfo.md")
    arguments = parser.parse_args(given)
    if arguments.command == "run":
        return 1 if run(arguments) else 0
    runs = [run for name in arguments.records for run in read_record(name)]
    Path(arguments.out).write_text(page(runs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
