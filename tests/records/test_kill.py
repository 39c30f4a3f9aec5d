"""``kill -9`` at any moment: every event that was acknowledged is readable."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from numguard.records import iterate_events, read_run

_PROGRAM = """
import os, sys
from numguard.records import EventLog, finding_fields
from tests.report.recorded_run import wrong_sum

run_dir, attempt, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = EventLog(run_dir, rank=0, attempt=attempt)
for step in range(1_000_000):
    if step % 50 == 49:
        taken = log.write("finding", **finding_fields(wrong_sum(id=f"f{step}", first_caught_step=step)))
    else:
        extra = "x" * (seed * step % 3_000)
        taken = log.write("step", step=step, loss=0.5, step_seconds=0.1, own_seconds=0.0, armed=False, extra=extra)
    if taken:
        os.write(1, b"%d\\n" % step)
"""


def _one_trial(run_dir: Path, attempt: int, random_delay: random.Random) -> tuple[int, list[int]]:
    """Kill a writing process at a random moment; return how many events it had acknowledged, and which are lost."""
    command = [sys.executable, "-c", _PROGRAM, str(run_dir), str(attempt), str(random_delay.randrange(1, 3_000))]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment) as process:
        assert process.stdout is not None
        acknowledged = process.stdout.readline()
        assert acknowledged == b"0\n"
        time.sleep(random_delay.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read()
    steps = [int(step) for step in re.findall(rb"(\d+)\n", acknowledged)]
    found = set()
    for event in iterate_events(run_dir):
        if event.attempt == attempt:
            found.add(event.fields["first_caught_step"] if event.event == "finding" else event.fields["step"])
    return len(steps), [step for step in steps if step not in found]


def _killed(run_dir: Path, count: int) -> tuple[int, list[int], list[Path]]:
    """Return the number of acknowledged events, those that are lost, and the runs that hold a bad line."""
    delays = random.Random(20_260)
    num_events, lost = 0, []
    for trial in range(count):
        # Several attempts share a directory, as those of a job that is restarted do.
        number, missing = _one_trial(run_dir / str(trial // 8), trial % 8, delays)
        num_events, lost = num_events + number, lost + missing
    return num_events, lost, [path for path in run_dir.iterdir() if read_run(path).damage.num_bad_crc]


def test_no_acknowledged_event_is_lost_in_40_kills(tmp_path: Path) -> None:
    num_events, lost, damaged = _killed(tmp_path, 40)
    assert num_events > 10 * 40, "the processes were killed before they wrote anything worth losing"
    assert (lost, damaged) == ([], [])


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_in_1000_kills(tmp_path: Path) -> None:
    num_events, lost, damaged = _killed(tmp_path, 1_000)
    assert num_events > 10 * 1_000, "the processes were killed before they wrote anything worth losing"
    assert (lost, damaged) == ([], [])
