"""A reproducer for each discovery: written, run in a process of its own, and only then told."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from numguard.acceptance.collectives import script_of_collective
from numguard.acceptance.discoveries import Discovery, sighting_from
from numguard.acceptance.elementwise import BIT_PATTERNS, script_of_function
from numguard.acceptance.pool import Pool
from numguard.acceptance.programme import subjects
from numguard.acceptance.scripts import script_of_crash

_SECONDS_OF_SCRIPT = 60.0


def reproducers_of(
    pool: Pool, discoveries: Sequence[Discovery], deadline: float, seconds: float
) -> dict[str, Mapping[str, Any]]:
    """Return what reproduces each discovery, as fields of its evidence, by fingerprint.

    Parameters
    ----------
    deadline
        On the monotonic clock.
    seconds
        What the shrinking of one may take.
    """
    by_name = {entry.name: entry for entry in subjects()}
    found: dict[str, Mapping[str, Any]] = {}
    tasks, whole = [], []
    for entry in discoveries:
        worst = entry.worst
        given = {"trial": worst.trial.plain(), "fingerprint": worst.fingerprint}
        if worst.kind == "crash" and worst.subject in by_name:
            whole.append(
                given | {"script": script_of_crash(by_name[worst.subject], worst), "seconds": _SECONDS_OF_SCRIPT}
            )
        elif worst.kind == "collective_mismatch":
            whole.append(given | {"script": script_of_collective(worst), "seconds": _SECONDS_OF_SCRIPT})
        elif worst.trial.data == BIT_PATTERNS:
            whole.append(given | {"script": script_of_function(worst), "seconds": _SECONDS_OF_SCRIPT})
        elif worst.subject in by_name and worst.kind not in ("hang", "out_of_memory"):
            tasks.append(given | {"seconds": seconds})
    answers, _ = pool.run("fails", whole, deadline=deadline)
    for answer in answers:
        if not answer.ended:
            script = {"reproducer": answer.given["script"], "reproducer_fails": bool(answer.value)}
            found[cast("str", answer.given["fingerprint"])] = script if answer.value else {}
    answers, _ = pool.run("reproduce", tasks, deadline=deadline)
    for answer in answers:
        if answer.ended or answer.value is None:
            continue
        value = answer.value
        smallest = sighting_from(value["sighting"])
        found[cast("str", answer.given["fingerprint"])] = {
            "smallest": smallest.trial.plain(),
            "smallest_message": smallest.message,
            "reproducer": value["script"],
            "reproducer_fails": value["fails"],
            "reproducer_passes_when_right": value["passes_when_right"],
        }
    return found
