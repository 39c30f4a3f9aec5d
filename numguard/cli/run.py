"""``numguard run``: an unmodified training script under guard."""

import os
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from numguard.cli.mistakes import told_in_one_line
from numguard.errors import UsageError
from numguard.launching import Program, prepare

_FLAGS: Final = frozenset({"--exit-code", "--help", "-h", "--version"})
_OPTIONS: Final = (
    "--run-dir", "--budget", "--checks", "--modules", "--skip", "--trend", "--reference", "--accept", "--capture",
    "--seed",
)  # fmt: skip


def separate(words: Sequence[str]) -> list[str]:
    """Put ``--`` between the options of ``numguard run`` and the program with its own arguments.

    The program begins at the first word that is no option and no option's value, or at ``-m``.

    Parameters
    ----------
    words
        What stands behind ``numguard run``.

    Raises
    ------
    UsageError
        For an option that ``numguard run`` does not have.
    """
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":
            return list(words)
        if word == "-m" or not word.startswith("-"):
            break
        name = word.partition("=")[0].replace("_", "-")
        if name not in _FLAGS and name not in _OPTIONS:
            raise UsageError(
                f"numguard run has no option {word}; there are {', '.join(_OPTIONS)} and --exit-code, "
                "and the program's own options stand behind the program"
            )
        place += 1 if name in _FLAGS or "=" in word else 2
    return [*words[:place], "--", *words[place:]]


def run_program(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    run_dir: str | None = None,
    budget: float | None = 0.01,
    checks: Annotated[list[str] | None, Parameter(negative=())] = None,
    modules: Annotated[list[str] | None, Parameter(negative=())] = None,
    skip: Annotated[list[str] | None, Parameter(negative=())] = None,
    trend: str | None = None,
    reference: str | None = None,
    accept: str | None = None,
    capture: Literal["summary", "capsule"] = "summary",
    seed: int = 0,
    exit_code: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run a training script under guard, without a change to it.

    Steps and losses are found from outside, through hooks on PyTorch's optimizers and its backward pass. The
    script's own exit code is passed through; a non-zero one of ours would restart a torchrun job.

    Parameters
    ----------
    command
        A script, or -m and a module, with its arguments.
    run_dir
        Folder for the event log and the report. Without it findings are only printed.
    budget
        Share of the step time that checks may take; "none" checks every operation of every step.
    checks
        Name or regular expression of the checks to make. May be given several times.
    modules
        Regular expression of the modules to look at, which others are not. May be given several times.
    skip
        Name or regular expression of what to leave out. May be given several times.
    trend
        Registry that holds one prediction of the loss: alarms where the loss leaves its band.
    reference
        Folder or log of an earlier run on the same batches.
    accept
        TOML file of accepted fingerprints: counted, not reported.
    capture
        "capsule" keeps the inputs of the first call of each finding in the folder of the run, for numguard replay.
    seed
        Chooses the steps and the calls that are checked.
    exit_code
        Exit with 1 where there are findings and the script itself exited with 0.
    """
    with told_in_one_line():
        run = prepare(_program(command))
        if run_dir is not None and os.path.exists(run_dir) and not os.path.isdir(run_dir):
            raise UsageError(f"--run-dir {run_dir} is a file; give a folder, which is made where there is none")
    if os.environ.get("NUMGUARD", "").lower() in ("off", "0", "false"):
        run()
        return 0
    from numguard.launching.supervision import Settings, Supervisor

    with told_in_one_line():
        settings = Settings(
            run_dir=run_dir,
            budget=budget,
            checks=checks,
            modules=modules,
            skip=skip,
            trend=trend,
            reference=reference,
            accept=accept,
            capture=capture,
            seed=seed,
        )
        supervisor = Supervisor(settings)
    try:
        supervisor.supervise(run)
    except SystemExit as end:
        if not (exit_code and end.code in (None, 0)):
            raise
    found = any(finding.severity != "notice" for finding in supervisor.findings)
    return int(exit_code and found)


def _program(command: Sequence[str]) -> Program:
    if not command or (command[0] == "-m" and len(command) == 1):
        raise UsageError("no program was given; type: numguard run [options] script.py [arguments], or -m module")
    if command[0] == "-m":
        return Program(target=command[1], arguments=command[2:], is_module=True)
    return Program(target=command[0], arguments=command[1:])
