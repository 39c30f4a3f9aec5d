"""Clean training under an exhaustive guard: nothing may be called wrong, and every planted fault must be.

Usage, from the repository's root::

    python -m benchmarks.campaigns.clean_training train --record clean.jsonl
    python -m benchmarks.campaigns.clean_training page clean.jsonl --out docs/clean_training.md

``train`` takes ``--part own`` or ``--part architectures`` for one half, ``--share 0/2`` and ``--share 1/2`` for two
processes side by side with a record each, ``--only REGEX`` for some models. Runs that the record holds already are
not made again. It ends with status 1 for a false alarm, a fault that was not found, or a warning whose cause nobody
has named.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.campaigns.architectures import ARCHITECTURES, build_architecture
from benchmarks.campaigns.clean_run import OPTIMIZERS, CleanRun, Control, Plan, Warned, run_clean
from benchmarks.campaigns.clean_training_page import page
from benchmarks.campaigns.own_models import OWN_MODELS
from benchmarks.campaigns.warning_causes import cause_of, defect_of
from tests.models.precision import Precision

OWN_PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16_autocast", "fp16_autocast")
OWN_STEPS: Final = 50
ARCHITECTURE_STEPS: Final = 3


def _num_threads(turn: int) -> int:
    """Return 2 for every fourth run: some kernels add in another order with two threads, most do not."""
    return 2 if turn % 4 == 3 else 1


def own_plans(num_steps: int = OWN_STEPS, optimizers: tuple[str, ...] = OPTIMIZERS) -> Iterator[Plan]:
    """Yield every own model in every precision with every way of AdamW."""
    turn = 0
    for name, build in OWN_MODELS.items():
        for precision in OWN_PRECISIONS:
            for optimizer in optimizers:
                yield Plan(
                    subject=name,
                    build=partial(build, 0),
                    precision=precision,
                    optimizer=optimizer,
                    num_threads=_num_threads(turn),
                    num_steps=num_steps,
                    turn=turn,
                )
                turn += 1


def architecture_plans(num_steps: int = ARCHITECTURE_STEPS) -> Iterator[Plan]:
    """Yield every architecture in every precision it has, the ways of AdamW in turn."""
    turn = 0
    for architecture in ARCHITECTURES:
        for precision in architecture.precisions:
            yield Plan(
                subject=architecture.name,
                build=partial(build_architecture, architecture),
                precision=precision,
                optimizer=OPTIMIZERS[turn % len(OPTIMIZERS)],
                num_threads=_num_threads(turn),
                num_steps=num_steps,
                turn=turn,
            )
            turn += 1


def complaints(run: CleanRun) -> list[str]:
    """Return what is wrong with a run: false alarms, a fault that was not found, warnings without a cause."""
    found = [error for error in run.errors if defect_of(error, run.precision) is None]
    if not run.control.found:
        found.append(f"control: {run.control.op} was wrong, {run.control.named} was named {run.control.degraded}")
    found += [
        f"unexplained {warned.kind} of {warned.op} ({warned.output}) on {warned.dtype}: {warned.message}"
        for warned in run.warned
        if cause_of(warned.kind, warned.op, warned.output, warned.dtype, warned.message) is None
    ]
    return found


def read_record(path: str) -> list[CleanRun]:
    """Return the runs of a record, in the order in which they were made."""
    return [from_fields(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def from_fields(fields: dict[str, Any]) -> CleanRun:
    """Return the run that a line of the record holds."""
    control = fields["control"]
    return CleanRun(
        **fields
        | {
            "errors": tuple(fields["errors"]),
            "warned": tuple(Warned(**warned) for warned in fields["warned"]),
            "control": Control(op=control["op"], named=tuple(control["named"]), degraded=tuple(control["degraded"])),
        }
    )


def train(arguments: argparse.Namespace) -> int:
    """Make the runs, print each and append it to the record; return how many were not as they should be."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("numguard").setLevel(logging.CRITICAL)  # the controls are found, loudly
    logging.getLogger("transformers").setLevel(logging.ERROR)
    plans = [
        *(own_plans() if arguments.part in ("own", "all") else ()),
        *(architecture_plans() if arguments.part in ("architectures", "all") else ()),
    ]
    share, num_shares = (int(part) for part in arguments.share.split("/"))
    known = read_record(arguments.record) if Path(arguments.record).exists() else []
    made = {(run.subject, run.precision, run.optimizer) for run in known}
    bad = 0
    for plan in [plan for plan in plans if re.fullmatch(arguments.only, plan.subject)][share::num_shares]:
        if (plan.subject, plan.precision, plan.optimizer) in made:
            continue
        run = run_clean(plan)
        wrong = complaints(run)
        bad += bool(wrong)
        print(
            f"{run.subject:20} {run.precision:14} {run.optimizer:8} {run.num_threads} threads {run.num_steps} steps: "
            f"{run.num_checks} checks, worst ratio {run.worst_ratio:.3f}, {len(run.warned)} warnings, "
            f"control {run.control.op} {'found' if run.control.found else 'NOT FOUND'}, {run.seconds:.1f} s",
            *(f"    {complaint}" for complaint in wrong),
            sep="\n",
            flush=True,
        )
        with open(arguments.record, "a", encoding="utf-8") as record:
            record.write(json.dumps(asdict(run)) + "\n")
    return bad


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("--part", choices=("own", "architectures", "all"), default="all")
    training.add_argument("--share", default="0/1")
    training.add_argument("--only", default=".*")
    training.add_argument("--record", default="clean_training.jsonl")
    writing = commands.add_parser("page")
    writing.add_argument("records", nargs="+")
    writing.add_argument("--out", default="docs/clean_training.md")
    arguments = parser.parse_args()
    if arguments.command == "train":
        return 1 if train(arguments) else 0
    runs = [run for name in arguments.records for run in read_record(name)]
    Path(arguments.out).write_text(page(runs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
