"""What ``capture="capsule"`` keeps: the inputs of the first call of each finding, replayable, and private."""

import logging
from pathlib import Path

from numguard.finding import Finding
from numguard.interception.observation import Observation
from numguard.records.capsule import write_capsule
from numguard.shadow.replay import NotKept, capsule_of

log = logging.getLogger("numguard")


def kept_inputs(run_dir: Path, finding: Finding, observation: Observation) -> str | None:
    """Write the capsule of a new finding and return its path below ``run_dir``, or None where there is none.

    The inputs of operators that overwrite them, and of verdicts that arrive late, are gone; the log says so.
    """
    if observation.call is None:
        log.info("no capsule for %s: the inputs of %s were gone", finding.id, finding.op)
        return None
    about = {
        "finding": finding.id,
        "fingerprint": finding.fingerprint,
        "kind": finding.kind,
        "message": finding.message,
    }
    path = run_dir / "findings" / f"{finding.id}.safetensors"
    try:
        write_capsule(path, capsule_of(observation.call, about))
    except (NotKept, OSError, MemoryError) as reason:
        log.warning("no capsule for %s: %s", finding.id, reason)
        return None
    return str(path.relative_to(run_dir))
