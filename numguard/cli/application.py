"""The ``numguard`` command as a whole: its verbs, its exit codes, its version."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from numguard.cli.mistakes import BAD_USAGE, refused
from numguard.errors import InputError, UsageError

if TYPE_CHECKING:
    from cyclopts import App

#: What each verb runs, and what it does in a line. A verb is imported when it is called for, so that ``--version`` and
#: ``--help`` work with a broken torch.
VERBS: Final = {
    "demo": ("numguard.cli.demo:demonstrate", "Train a small GPT on a broken torch.sum, and watch it being found."),
    "run": ("numguard.cli.run:run_program", "Run an unmodified training script under guard."),
    "audit": ("numguard.cli.audit:examine_torch", "Examine the operators of the installed torch."),
    "replay": ("numguard.cli.replay:replay_call", "Run a call that was found wrong again, from its capsule."),
    "report": ("numguard.cli.report:show_report", "Say what a run found: stop or go on, and what to do."),
    "curve": ("numguard.cli.curve:show_curve", "Find what is wrong with a loss, from any tool's log of it."),
    "scaling": ("numguard.cli.scaling:app", "Predict a run from smaller ones, and score that: see scaling fit --help."),
    "bench": ("numguard.cli.bench:measure", "Measure what the kernels of the checks cost, or predict it."),
}
DISTRIBUTION: Final = "numguard-torch"
_INTERRUPTED: Final = 128 + 2
_PIPE_CLOSED: Final = 128 + 13


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    tokens
        Words after the command's own name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0 nothing found, 1 findings, 2 bad usage or input, 3 done but the input was partly damaged. ``numguard run``
        returns what the program that it runs would have returned.
    """
    words = list(sys.argv[1:] if tokens is None else tokens)
    if words[:1] == ["--version"]:
        print(_version())
        return 0
    if words and words[0] not in (*VERBS, "--help", "-h"):
        return refused(_no_verb(words[0][:40]))
    try:
        import cyclopts
    except ImportError:
        return refused(f"the command line needs more packages; run: pip install '{DISTRIBUTION}[cli]'")
    app = cyclopts.App(
        name="numguard",
        help="Finds numerical bugs in large PyTorch training runs.",
        version=_version,
        # Ctrl-C is the business of the program under `run`, whose exit it must decide as it would alone.
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for verb, (place, summary) in VERBS.items():
        # The verb that was called for is imported anyway, and its own docstring says more.
        app.command(place, name=verb, help=None if words[:1] == [verb] else summary)
    if words[:1] == ["run"]:
        from numguard.cli.run import separate

        try:
            words = ["run", *separate(words[1:])]
        except UsageError as mistake:
            return refused(str(mistake))
        # Outside of what follows: every exception of the program that is run passes through, ours among them.
        return _exit_code(app, words)
    if not words:
        app.help_print([])
        return BAD_USAGE
    try:
        return _exit_code(app, words)
    except (UsageError, InputError) as mistake:
        return refused(str(mistake))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, for example `| head`. Python would complain once more while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED


def _no_verb(word: str) -> str:
    if word.startswith("-"):
        return f"there is no option {word!r} in this place; type --help, --version, or a verb: {', '.join(VERBS)}"
    near = difflib.get_close_matches(word, VERBS, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"no verb is named {word!r}; {meant}There are {', '.join(VERBS)}"


def _exit_code(app: "App", words: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    try:
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as mistake:
        command = " ".join(words[: 2 if words[0] == "scaling" and not words[1].startswith("-") else 1])
        return refused(f"{str(mistake).strip()} See numguard {command} --help")
    return code if isinstance(code, int) else 0


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown: numguard is not installed but imported from its source tree"
